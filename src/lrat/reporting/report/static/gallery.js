// The gallery: one card per image of the chosen run, under the chosen attack.
(() => {
  "use strict";
  const { pictures, runs } = JSON.parse(document.getElementById("gallery-data").textContent);
  if (!runs.length) return;
  const PAGE = 18;
  const find = (name) => document.getElementById(`gallery-${name}`);
  const [run, attack, kind, outcome, cards, count, about, more, card] = [
    "run", "attack", "class", "outcome", "cards", "count", "about", "more", "card",
  ].map(find);
  let shown = PAGE;

  const chosen = () => runs[Number(run.value)];
  const fillOptions = (select, options) => {
    const before = select.value;
    select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
    if (options.some(([value]) => value === before)) select.value = before;
  };
  const number = (value) => (value === null ? "–" : String(value).replace("-", "−"));
  const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);

  const outcomeOf = (image, attacked) => {
    if (image.natural.prediction !== image.label) return "wrong";
    return attacked.fooled ? "fooled" : "stands";
  };

  const show = (figure, place, words) => {
    const picture = figure.querySelector("img");
    figure.hidden = place === undefined;
    if (place === undefined) return;
    picture.src = pictures[place];
    picture.alt = words;
  };

  const list = (place, answer, label, names) => {
    place.replaceChildren(
      ...answer.likeliest.map(([number, share]) => {
        const item = document.createElement("li");
        const name = document.createElement("span");
        const value = document.createElement("span");
        name.className = "name";
        name.textContent = names[number];
        name.title = names[number];
        value.textContent = percent(share);
        item.append(name, value);
        item.style.setProperty("--share", `${100 * (share || 0)}%`);
        if (number === label) {
          item.className = "label";
          const mark = document.createElement("span");
          mark.className = "unseen";
          mark.textContent = " (true class)";
          name.append(mark);
        }
        return item;
      }),
    );
  };

  const words = {
    fooled: "fooled",
    stands: "stands",
    wrong: "wrong without attack, so not attacked",
    before: "fooled by an earlier attack, so not attacked here",
  };

  const build = (image, attacked, names, attackName) => {
    const made = card.content.firstElementChild.cloneNode(true);
    const result = outcomeOf(image, attacked);
    const untouched = attacked.picture === undefined;
    const heading = made.querySelector("h3");
    heading.textContent = `Image ${image.index}: ${names[image.label]}`;
    heading.title = heading.textContent;
    const [clean, added, after] = made.querySelectorAll(".triptych figure");
    show(clean, image.picture, `Image ${image.index} of class ${names[image.label]}`);
    show(added, attacked.perturbation, `What ${attackName} added to image ${image.index}, enlarged`);
    show(after, attacked.picture, `Image ${image.index} after ${attackName}`);
    list(made.querySelector(".before ul"), image.natural, image.label, names);
    made.querySelector(".after").hidden = untouched;
    if (!untouched) list(made.querySelector(".after ul"), attacked, image.label, names);
    const state = document.createElement("strong");
    state.className = `outcome ${result}`;
    state.textContent = words[result === "fooled" && untouched ? "before" : result];
    const note = made.querySelector(".note");
    note.append(state);
    if (!untouched) note.append(` · distance ${number(attacked.distance)} · margin ${number(attacked.margin)}`);
    made.dataset.outcome = result;
    made.dataset.index = image.index;
    return made;
  };

  const render = () => {
    const { images, classes, attacks } = chosen();
    const place = attack.value;
    // Of an evaluation without attacks there is the image and the model's answer.
    const attackedOf = (image) => image.attacks[place] || (attacks.length ? undefined : {});
    const fitting = images.filter((image) => {
      const attacked = attackedOf(image);
      if (!attacked || (kind.value !== "" && String(image.label) !== kind.value)) return false;
      return outcome.value === "" || outcomeOf(image, attacked) === outcome.value;
    });
    cards.replaceChildren(
      ...fitting
        .slice(0, shown)
        .map((image) => build(image, attackedOf(image), classes, attacks[Number(place)])),
    );
    count.textContent = `${fitting.length} of ${images.length} images`;
    more.hidden = fitting.length <= shown;
  };

  const change = () => {
    const { attacks, classes, images, scale, notes, about: chosenHow } = chosen();
    fillOptions(attack, attacks.map((name, k) => [String(k), name]));
    const labels = [...new Set(images.map((image) => image.label))].sort((a, b) => a - b);
    fillOptions(kind, [["", "all"], ...labels.map((label) => [String(label), classes[label]])]);
    about.textContent = [chosenHow, ...notes, `Scale: ${scale}.`].join(" ");
    restart();
  };
  const restart = () => {
    shown = PAGE;
    render();
  };

  run.addEventListener("input", change);
  [attack, kind, outcome].forEach((select) => select.addEventListener("input", restart));
  more.addEventListener("click", () => {
    const next = shown;
    shown += PAGE;
    render();
    const first = cards.children[next];
    if (first) {
      first.tabIndex = -1;
      first.focus();
    }
  });
  change();
})();
