"use strict";
(() => {
  const app = document.getElementById("explorer-app");
  if (!app) return;
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const PAGE = 50;
  const arrays = { u1: Uint8Array, u2: Uint16Array, i4: Int32Array };
  const $ = (id) => document.getElementById(id);
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children); // strings become text, never markup
    return made;
  };
  const count = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;

  // Packed values, unpacked when first needed. Stored codes are one higher than codes, 0 is PAD.
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const unpack = (run) => {
    if (!run.table_) {
      run.table_ = new arrays[run.type](bytes(run.codes).buffer);
      run.shares_ = run.weights ? bytes(run.weights) : null;
    }
    return run;
  };
  const code = (run, item, position) => run.table_[item * run.length + position] - 1;
  const sid = (run, item) => Array.from({ length: run.length }, (_, p) => code(run, item, p));
  const shown = (codes) => codes.map((c) => (c < 0 ? "–" : c)).join(" · ");
  const catalogueOf = (run) => data.catalogues[run.catalogue];
  const keyOf = (catalogue, item) => (catalogue.keys ? catalogue.keys[item] : `item ${item}`);
  const titleOf = (catalogue, item) => (catalogue.titles ? catalogue.titles[item] : "");
  const pathOf = (catalogue, item) => (catalogue.paths ? catalogue.paths[catalogue.categories[item]] : "");

  // Items with the same codes as `item`: positions 0..last where they are ordered, position `last` alone where not.
  const sharing = (run, item, first, last) => {
    const found = [];
    for (let other = 0; other < catalogueOf(run).n; other += 1) {
      let same = true;
      for (let p = first; p <= last && same; p += 1) same = run.table_[other * run.length + p] === run.table_[item * run.length + p];
      if (same) found.push(other);
    }
    return found;
  };

  let run = null;
  let current = -1;
  let matches = [];
  let listed = 0;

  const entry = (item) => {
    const catalogue = catalogueOf(run);
    const title = titleOf(catalogue, item);
    const made = element("button", { type: "button", className: "x-entry" },
      element("span", { dir: "auto" }, title || keyOf(catalogue, item)),
      element("code", {}, ...(title ? [element("span", {}, keyOf(catalogue, item))] : []), shown(sid(run, item))));
    made.dataset.item = item;
    if (item === current) made.setAttribute("aria-current", "true");
    made.addEventListener("click", () => open(item, true));
    return element("li", {}, made);
  };
  const listMore = () => {
    const next = matches.slice(listed, listed + PAGE);
    $("x-results").append(...next.map(entry));
    const from = listed;
    listed += next.length;
    $("x-more").hidden = listed >= matches.length;
    return from;
  };
  const search = () => {
    const catalogue = catalogueOf(run);
    if (!catalogue.texts_) {
      catalogue.texts_ = Array.from({ length: catalogue.n }, (_, i) =>
        `${keyOf(catalogue, i)} ${titleOf(catalogue, i)} ${pathOf(catalogue, i)}`.toLowerCase());
    }
    const wanted = $("x-search").value.trim().toLowerCase();
    const words = wanted.split(/\s+/).filter(Boolean);
    matches = [];
    catalogue.texts_.forEach((text, item) => { if (words.every((word) => text.includes(word))) matches.push(item); });
    const exact = matches.findIndex((item) => keyOf(catalogue, item).toLowerCase() === wanted);
    if (exact > 0) matches.unshift(...matches.splice(exact, 1));
    listed = 0;
    $("x-results").replaceChildren();
    listMore();
    $("x-count").textContent = words.length ? `${count(matches.length, "item")} found` : count(catalogue.n, "item");
  };

  const picture = (catalogue, item) => {
    const sheet = catalogue.pictures;
    if (!sheet || !sheet.present[item]) return null;
    const canvas = element("canvas", { width: sheet.tile * 2, height: sheet.tile * 2 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Picture of the item");
    const draw = () => canvas.getContext("2d").drawImage(sheet.image_, (item % sheet.columns) * sheet.tile,
      Math.floor(item / sheet.columns) * sheet.tile, sheet.tile, sheet.tile, 0, 0, sheet.tile * 2, sheet.tile * 2);
    if (!sheet.image_) {
      sheet.image_ = new Image();
      sheet.image_.src = `data:image/jpeg;base64,${sheet.data}`;
    }
    if (sheet.image_.complete) draw();
    else sheet.image_.addEventListener("load", draw, { once: true });
    return canvas;
  };

  const codeButtons = (item, group) => {
    const list = element("ul", { className: "codes" });
    const codes = sid(run, item);
    const choices = codes.map((value, p) => ({ value, first: run.ordered ? 0 : p, last: p, name: run.ordered ? `prefix ${p + 1}` : `position ${p}` }));
    choices.push({ value: "SID", first: 0, last: run.length - 1, name: "all codes" });
    for (const choice of choices) {
      const pad = choice.value === -1;
      const same = pad && !run.ordered ? [] : sharing(run, item, choice.first, choice.last);
      const made = element("button", { type: "button", disabled: pad },
        element("small", {}, choice.name), element("b", {}, pad ? "PAD" : String(choice.value)));
      if (!pad) made.append(element("small", {}, count(same.length, "item")));
      if (!pad && run.shares_ && choice.value !== "SID") {
        made.append(element("small", {}, `weight ${((run.shares_[item * run.length + choice.last] / 255) * run.top).toFixed(2)}`));
      }
      made.setAttribute("aria-pressed", "false");
      made.addEventListener("click", () => {
        for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === made));
        const prefix = shown(codes.slice(choice.first, choice.last + 1));
        const where = choice.value === "SID" ? "the whole SID" : choice.name;
        showGroup(group, same, `${count(same.length, "item")} with ${where} = ${prefix}`);
      });
      list.append(element("li", {}, made));
    }
    return list;
  };
  const showGroup = (group, items, words) => {
    const heading = element("h4", { tabIndex: -1 }, words);
    const list = element("ul", { className: "plain" });
    const more = element("button", { type: "button", className: "quiet" }, "Show more");
    let from = 0;
    const grow = () => {
      list.append(...items.slice(from, from + PAGE).map(entry));
      from += PAGE;
      more.hidden = from >= items.length;
    };
    more.addEventListener("click", grow);
    grow();
    group.replaceChildren(heading, element("div", { className: "x-group" }, list, more));
    $("status").textContent = words;
  };
  const otherRows = (item) => {
    const body = element("tbody");
    for (const other of data.runs.filter((candidate) => candidate.catalogue === run.catalogue)) {
      unpack(other);
      const n = sharing(other, item, 0, other.length - 1).length;
      const name = element("th", { scope: "row" }, other === run ? element("b", {}, other.label) : other.label);
      body.append(element("tr", {}, name, element("td", {}, element("code", {}, shown(sid(other, item)))),
        element("td", {}, n === 1 ? "alone" : `shared by ${n.toLocaleString("en")}`)));
    }
    const head = element("tr", {}, ...["row", "codes", "whole SID"].map((words) => element("th", { scope: "col" }, words)));
    return element("details", { open: true }, element("summary", {}, "This item in every row"),
      element("div", { className: "x-scroll" }, element("table", { className: "x-table" }, element("thead", {}, head), body)));
  };
  const open = (item, focus) => {
    current = item;
    const catalogue = catalogueOf(run);
    const title = titleOf(catalogue, item);
    const heading = element("h3", { tabIndex: -1, dir: "auto" }, title || keyOf(catalogue, item));
    const words = element("div", {}, heading);
    if (title) words.append(element("p", { className: "muted" }, element("code", {}, keyOf(catalogue, item))));
    if (pathOf(catalogue, item)) words.append(element("p", { className: "muted", dir: "auto" }, pathOf(catalogue, item)));
    const image = picture(catalogue, item);
    const group = element("div");
    const hint = run.ordered ? "Codes refine each other: press one to see the items that share the prefix up to it."
      : "Codes stand side by side: press one to see the items with the same code at its position.";
    $("x-item").replaceChildren(element("div", { className: "x-head" }, ...(image ? [image] : []), words),
      codeButtons(item, group), element("p", { className: "muted" }, hint), group, otherRows(item));
    $("x-item").hidden = false;
    for (const made of $("x-results").querySelectorAll(".x-entry")) {
      if (Number(made.dataset.item) === item) made.setAttribute("aria-current", "true");
      else made.removeAttribute("aria-current");
    }
    if (focus) heading.focus();
  };
  const choose = (place) => {
    const before = run;
    run = unpack(data.runs[place]);
    const catalogue = catalogueOf(run);
    const same = before && before.catalogue === run.catalogue;
    if (!same) current = -1;
    $("x-search").placeholder = catalogue.titles ? "key, title or category" : catalogue.keys ? "item key" : "item number";
    $("x-notes").replaceChildren(...catalogue.notes.map((words) => element("li", {}, words)));
    search();
    if (current >= 0) open(current, false);
    else $("x-item").hidden = true;
  };

  data.runs.forEach((entry_, place) => $("x-run").append(element("option", { value: String(place) }, entry_.label)));
  $("x-run").addEventListener("change", () => choose(Number($("x-run").value)));
  $("x-search").addEventListener("input", search);
  $("x-more").addEventListener("click", () => {
    const from = listMore();
    $("x-results").children[from].firstChild.focus();
  });
  $("x-results").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...$("x-results").querySelectorAll(".x-entry")];
    const next = all[all.indexOf(document.activeElement) + step];
    event.preventDefault();
    (next || $("x-search")).focus();
  });
  $("x-search").addEventListener("keydown", (event) => {
    const first = $("x-results").querySelector(".x-entry");
    if (!first || (event.key !== "ArrowDown" && event.key !== "Enter")) return;
    event.preventDefault();
    if (event.key === "Enter") first.click();
    else first.focus();
  });
  app.hidden = false;
  choose(0);
})();
