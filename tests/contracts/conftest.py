from typechecking import without_checks_of_types  # noqa: F401
