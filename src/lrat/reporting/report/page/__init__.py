"""The report's page: tables, charts and pictures of what was collected."""
