"use strict";
// What the page can do beyond being read. Row texts reach it as data and leave it as text: nothing is ever parsed as HTML.
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, text = "", name = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  document.documentElement.classList.add("script");

  // ---- light and dark

  const theme = $("#theme");
  const themes = ["auto", "light", "dark"];
  const show = (chosen) => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    theme.textContent = `Colours: ${chosen}`;
  };
  let chosen = "auto";
  try { chosen = localStorage.getItem("refinery-theme") || "auto"; } catch { /* a page from disk may have no storage */ }
  show(themes.includes(chosen) ? chosen : (chosen = "auto"));
  theme.hidden = false;
  theme.addEventListener("click", () => {
    chosen = themes[(themes.indexOf(chosen) + 1) % themes.length];
    show(chosen);
    try { localStorage.setItem("refinery-theme", chosen); } catch { /* as above */ }
  });

  // ---- tables: sort by a column, keep rows that hold a text

  const number = (text) => {
    const found = text.replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1").match(/^[<>\s]*([+-]?\d*\.?\d+(?:e-?\d+)?)/);
    return found ? parseFloat(found[1]) : NaN;
  };
  const sort = (table, column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    const body = $("tbody", table), rows = [...body.rows];
    const keyed = rows.map((row) => {
      const text = row.cells[column].textContent.trim();
      return { row, text, value: number(text) };
    });
    const numeric = keyed.some((one) => !isNaN(one.value));
    keyed.sort((a, b) => {
      if (numeric && isNaN(a.value) !== isNaN(b.value)) return isNaN(a.value) ? 1 : -1;
      const order = numeric && !isNaN(a.value) ? a.value - b.value : a.text.localeCompare(b.text);
      return down ? -order : order;
    });
    body.append(...keyed.map((one) => one.row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = make("button", header.textContent);
      button.type = "button";
      button.addEventListener("click", () => sort(table, column, header));
      header.replaceChildren(button);
    });
    if (table.tBodies[0].rows.length < 12) continue;
    const box = make("input", "", "filter");
    box.type = "search";
    box.placeholder = "Rows with …";
    box.setAttribute("aria-label", "Show only rows that hold this text");
    box.addEventListener("input", () => {
      const wanted = box.value.toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.parentElement.before(box);
  }

  // ---- copying

  for (const block of all("pre.copy")) {
    const button = make("button", "Copy"), frame = make("div", "", "copying");
    button.type = "button";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(block.textContent);
      } catch { // a page from disk may not reach the clipboard: the text is selected instead
        getSelection().selectAllChildren(block);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
    });
    block.replaceWith(frame);
    frame.append(block, button);
  }

  // ---- items, one beside the other

  for (const place of all(".explorer")) explore(place);

  function explore(place) {
    const data = JSON.parse($(".data", place).textContent);
    const field = (name) => $(`[name=${name}]`, place);
    const list = $(".found", place), detail = $(".item", place), count = $(".count", place);
    const option = (select, text, value) => {
      const made = make("option", text);
      made.value = value;
      select.append(made);
    };
    option(field("benchmark"), "all benchmarks", "");
    data.sets.forEach((set, i) => option(field("benchmark"), set.name, i));
    data.arms.slice(1).forEach((arm, i) => ["a", "b"].forEach((side) => option(field(side), arm, i + 1)));
    let found = [], at = 0;

    const tests = {
      lost: (v, a) => v[a] < v[0],
      gained: (v, a) => v[a] > v[0],
      rescued: (v, a, b) => v[a] < v[0] && v[b] >= v[0],
      both: (v, a, b) => v[a] < v[0] && v[b] < v[0],
      any: () => true,
    };
    const fits = ({ values }, change, a, b) => values[a] !== null && values[b] !== null && tests[change](values, a, b);

    // Opens on the first method that lost anything (or gained, where none lost), beside the one that lost least.
    const items = data.sets.flatMap((set) => set.items), arms = data.arms.map((_, arm) => arm).slice(1);
    const many = (change, a, b = a) => items.filter((item) => fits(item, change, a, b)).length;
    const change = arms.some((arm) => many("lost", arm)) ? "lost" : "gained";
    const first = arms.find((arm) => many(change, arm)) ?? arms[0];
    const others = arms.filter((arm) => arm !== first).sort((x, y) => many("lost", x) - many("lost", y));
    field("change").value = change;
    field("a").value = first;
    field("b").value = others.find((arm) => many(change, first, arm)) ?? first;

    const refresh = () => {
      const a = +field("a").value, b = +field("b").value, wanted = field("search").value.toLowerCase();
      const change = field("change").value, only = field("benchmark").value;
      found = [];
      data.sets.forEach((set, i) => {
        if (only !== "" && i !== +only) return;
        for (const item of set.items)
          if (fits(item, change, a, b)
            && (!wanted || [item.prompt, item.target, ...item.answers].some((t) => t.toLowerCase().includes(wanted))))
            found.push({ set, item });
      });
      const among = data.sets.filter((set, i) => only === "" || i === +only);
      const held = among.reduce((sum, set) => sum + set.items.length, 0);
      const changed = among.reduce((sum, set) => sum + set.changed, 0);
      count.textContent = `${found.length} ${found.length === 1 ? "item" : "items"} found among the ${held} of ${changed} changed items that are on this page`;
      list.replaceChildren(...found.map(({ set, item }, i) => {
        const button = make("button");
        button.type = "button";
        const text = item.prompt.replace(/\s+/g, " ").trim();
        button.append(make("span", set.name, "where"), make("bdi", text.length > 90 ? "…" + text.slice(-90) : text));
        button.addEventListener("click", () => choose(i));
        const row = make("li");
        row.append(button);
        return row;
      }));
      choose(0, false);
    };
    const choose = (i, focus = true) => {
      at = Math.max(0, Math.min(i, found.length - 1));
      all("button", list).forEach((button, n) => {
        button.tabIndex = n === at ? 0 : -1;
        button.toggleAttribute("aria-current", n === at);
        if (n === at && focus) { button.focus(); button.scrollIntoView({ block: "nearest" }); }
      });
      detail.replaceChildren(...(found.length ? shown(found[at]) : [make("p", "No item fits.", "note")]));
    };
    const shown = ({ set, item }) => {
      const a = +field("a").value, b = +field("b").value;
      const column = (label, text, mark, name) => {
        const cell = make("div", "", name);
        const head = make("h4", label);
        if (mark) head.append(" ", make("span", mark, `mark ${mark}`));
        const body = make("pre", text || "(nothing)");
        body.dir = "auto";
        body.tabIndex = 0;
        cell.append(head, body);
        return cell;
      };
      const mark = (arm) => item.marks[arm];
      const top = make("div", "", "side"), below = make("div", "", "side");
      top.append(column("Prompt", item.prompt, "", "wide"), column("Expected", item.target, ""));
      for (const arm of a === b ? [0, a] : [0, a, b]) below.append(column(data.arms[arm], item.answers[arm], mark(arm)));
      return [make("p", `${set.name}, item ${item.id}`, "note"), top, below];
    };
    for (const name of ["benchmark", "a", "b", "change"]) field(name).addEventListener("change", refresh);
    field("search").addEventListener("input", refresh);
    list.addEventListener("keydown", (event) => {
      const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: found.length - 1 }[event.key];
      if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      choose(to);
    });
    place.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.matches("input, select")) return;
      event.preventDefault();
      field("search").focus();
    });
    $(".tool", place).hidden = false;
    refresh();
  }
})();
