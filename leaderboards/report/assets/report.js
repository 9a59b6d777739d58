"use strict";
(() => {
  const status = document.getElementById("status");
  const say = (words) => { status.textContent = words; };

  // Theme: the system's, unless the reader chose; a browser that keeps nothing for files forgets the choice, no more.
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("sidbench-theme"); } catch (error) { return null; } };
  const remember = (name) => { try { localStorage.setItem("sidbench-theme", name); } catch (error) { say("The theme cannot be remembered here."); } };
  const wear = (name) => {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
  };
  let theme = themes.includes(remembered()) ? remembered() : "system";
  wear(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    wear(theme);
    remember(theme);
  });

  // Sorting. Every row of a table is a tbody of its own, so that its details travel with it.
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyOf = (body, column) => {
    const cell = body.rows[0].cells[column];
    const text = column === 0 ? body.dataset.words : cell.dataset.sort;
    if (text === "" || text === "–") return { missing: true };
    const number = Number(text);
    return Number.isNaN(number) ? { text } : { number };
  };
  const compare = (a, b) => {
    if (a.number !== undefined && b.number !== undefined) return a.number - b.number;
    if (a.number !== undefined) return -1;
    if (b.number !== undefined) return 1;
    return collator.compare(a.text, b.text);
  };
  const sortBy = (table, head, column, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const bodies = [...table.tBodies].map((body, place) => ({ body, place, key: keyOf(body, column) }));
    bodies.sort((a, b) => {
      if (a.key.missing || b.key.missing) return (a.key.missing ? 1 : 0) - (b.key.missing ? 1 : 0) || a.place - b.place;
      return sign * compare(a.key, b.key) || a.place - b.place;
    });
    table.append(...bodies.map((entry) => entry.body));
    for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    say(`Sorted by ${head.textContent.trim()}, ${direction}; rows without a number stand last.`);
  };
  for (const head of document.querySelectorAll(".board thead th")) {
    const control = head.querySelector("button");
    control.addEventListener("click", () => {
      const first = control.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      sortBy(head.closest("table"), head, head.cellIndex, head.getAttribute("aria-sort") === first ? other : first);
    });
  }

  // Filters: rows by words and kind, columns by group.
  const form = document.getElementById("controls");
  const chosen = (name) => new Set([...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value));
  const unchosen = (name) => [...form.querySelectorAll(`input[name="${name}"]:not(:checked)`)].map((box) => box.value);
  const filter = () => {
    const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = chosen("kind");
    const hide = unchosen("group").join(" ");
    let shown = 0;
    let total = 0;
    for (const board of document.querySelectorAll(".board")) {
      board.dataset.hide = hide;
      let here = 0;
      const bodies = board.querySelectorAll("table > tbody");
      for (const body of bodies) {
        const fits = kinds.has(body.dataset.kind) && words.every((word) => body.dataset.words.includes(word));
        body.hidden = !fits;
        here += fits ? 1 : 0;
      }
      const count = board.querySelector(".count");
      count.textContent = here === bodies.length ? `${here} rows` : `${here} of ${bodies.length} rows`;
      shown += here;
      total += bodies.length;
    }
    return `${shown} of ${total} rows shown.`;
  };
  form.hidden = false;
  form.addEventListener("input", () => say(filter()));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(); // a browser may restore the form of an earlier visit

  // Details of a row, and copying its command.
  for (const opener of document.querySelectorAll(".open")) {
    opener.addEventListener("click", () => {
      const more = document.getElementById(opener.getAttribute("aria-controls"));
      more.hidden = !more.hidden;
      opener.setAttribute("aria-expanded", String(!more.hidden));
    });
  }
  const copyText = async (element) => {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch (error) { // no clipboard without permission: leave the command selected
      getSelection().selectAllChildren(element);
      return false;
    }
  };
  for (const copier of document.querySelectorAll(".copy")) {
    copier.hidden = false;
    copier.addEventListener("click", async () => {
      const done = await copyText(copier.parentNode.querySelector("code"));
      say(done ? "Command copied." : "The browser refused to copy; the command is selected.");
      copier.firstChild.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { copier.firstChild.textContent = "Copy"; }, 2000);
    });
  }
})();
