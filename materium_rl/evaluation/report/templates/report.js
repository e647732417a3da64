"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  // Theme: the system's until the button is used; remembered where the browser lets a page from disk do so.
  function stored(value) {
    try {
      if (value !== undefined) localStorage.setItem("materium-rl-theme", value);
      return localStorage.getItem("materium-rl-theme");
    } catch {
      return null;
    }
  }
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  function showTheme() {
    find("theme").setAttribute("aria-pressed", String(isDark()));
    if (drawn) drawn.setBackgroundColor(colourOf("--card"), 1);
  }
  const colourOf = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  let drawn = null; // the 3D view, once it has been asked for
  if (stored()) root.dataset.theme = stored();
  find("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  const table = find("table");
  if (!table) return;
  const data = JSON.parse(find("data").textContent);
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];

  // Sorting
  function order(cell, number) {
    const text = cell.dataset.order ?? cell.dataset.value;
    return number || cell.dataset.order !== undefined ? (text === "" ? NaN : Number(text)) : text.toLowerCase();
  }
  function sort(column) {
    const heading = headings[column];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = heading.dataset.number !== undefined;
    const keyed = rows.map((row) => [order(row.cells[column], number), row]);
    keyed.sort(([a], [b]) => {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown last, both ways
      const sign = a < b ? -1 : a > b ? 1 : 0;
      return down ? -sign : sign;
    });
    rows.splice(0, rows.length, ...keyed.map(([, row]) => row));
    body.append(...rows);
  }
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sort(column));
  });

  // Filtering
  const filters = [...table.querySelectorAll("[data-filter]")];
  function test(text) {
    const number = "(-?\\d*\\.?\\d+(?:e-?\\d+)?)";
    const range = text.match(new RegExp(`^${number}\\s*\\.\\.\\s*${number}$`, "i"));
    if (range) return (value) => value >= Number(range[1]) && value <= Number(range[2]);
    const one = text.match(new RegExp(`^(<=|>=|<|>|=)?\\s*${number}$`, "i"));
    if (!one) return null;
    const limit = Number(one[2]);
    return {
      "<": (value) => value < limit,
      "<=": (value) => value <= limit,
      ">": (value) => value > limit,
      ">=": (value) => value >= limit,
      "=": (value) => value === limit,
    }[one[1] ?? "="];
  }
  function accepts(field) {
    const text = field.value.trim();
    const column = Number(field.dataset.filter);
    field.removeAttribute("aria-invalid");
    if (text === "") return null;
    if (field.dataset.kind === "choice") {
      return (row) => row.cells[column].dataset.value.split("\n").includes(text);
    }
    if (field.dataset.kind === "text") {
      return (row) => row.cells[column].dataset.value.toLowerCase().includes(text.toLowerCase());
    }
    const passes = test(text);
    if (!passes) {
      field.setAttribute("aria-invalid", "true");
      return null;
    }
    return (row) => row.cells[column].dataset.value !== "" && passes(Number(row.cells[column].dataset.value));
  }
  const texts = new Map(
    rows.map((row) => [row, [...row.cells].map((cell) => cell.dataset.value).join(" ").toLowerCase()]),
  );
  function filter() {
    const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = filters.map(accepts).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const passes = words.every((word) => texts.get(row).includes(word)) && tests.every((passed) => passed(row));
      row.hidden = !passes;
      shown += passes;
    }
    const wrong = filters.filter((field) => field.hasAttribute("aria-invalid")).length;
    find("count").textContent =
      `${shown} of ${rows.length} shown` + (wrong ? "; a number filter looks like <0.05, >=1 or 1..2" : "");
  }
  for (const field of [find("filter"), ...filters]) field.addEventListener("input", filter);
  find("clear").addEventListener("click", () => {
    for (const field of [find("filter"), ...filters]) field.value = "";
    filter();
  });

  // 3D view
  let current = rows[0];
  let big = false;
  const element = (name, text, title) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (title) made.title = title;
    return made;
  };
  const lengths = (m) => [0, 3, 6].map((i) => Math.hypot(m[i], m[i + 1], m[i + 2]));
  function angles(m) {
    const [a, b, c] = lengths(m);
    const between = (i, j, p, q) =>
      (Math.acos((m[i] * m[j] + m[i + 1] * m[j + 1] + m[i + 2] * m[j + 2]) / (p * q)) * 180) / Math.PI;
    return [between(3, 6, b, c), between(0, 6, a, c), between(0, 3, a, b)];
  }
  const cartesian = (m, x, y, z) => ({
    x: x * m[0] + y * m[3] + z * m[6],
    y: x * m[1] + y * m[4] + z * m[7],
    z: x * m[2] + y * m[5] + z * m[8],
  });
  // Atoms of the cells, with those on the far faces that equal the ones on the near faces.
  function atomsOf(structure, cells) {
    const near = 0.02;
    const places = (value) => {
      const found = [];
      for (let k = 0; k <= cells; k++) if (value + k <= cells + near) found.push(value + k);
      if (value > 1 - near) found.unshift(value - 1);
      return found;
    };
    const atoms = [];
    structure.s.forEach((kind, i) => {
      for (const x of places(structure.x[3 * i]))
        for (const y of places(structure.x[3 * i + 1]))
          for (const z of places(structure.x[3 * i + 2]))
            atoms.push({ elem: structure.e[kind], ...cartesian(structure.m, x, y, z) });
    });
    return atoms;
  }
  function bond(atoms) {
    for (const atom of atoms) Object.assign(atom, { bonds: [], bondOrder: [] });
    for (let i = 0; i < atoms.length; i++)
      for (let j = 0; j < i; j++) {
        const [p, q] = [atoms[i], atoms[j]];
        if (p.elem === q.elem) continue;
        const far = 1.12 * (data.atoms[p.elem][1] + data.atoms[q.elem][1]);
        if ((p.x - q.x) ** 2 + (p.y - q.y) ** 2 + (p.z - q.z) ** 2 > far * far) continue;
        p.bonds.push(j);
        q.bonds.push(i);
        p.bondOrder.push(1);
        q.bondOrder.push(1);
      }
    return atoms;
  }
  function drawCell(viewer, m) {
    const corners = [0, 1].flatMap((x) => [0, 1].flatMap((y) => [0, 1].map((z) => [x, y, z])));
    for (const start of corners)
      for (let axis = 0; axis < 3; axis++) {
        if (start[axis]) continue;
        const end = start.map((v, i) => (i === axis ? 1 : v));
        viewer.addLine({
          start: cartesian(m, ...start),
          end: cartesian(m, ...end),
          color: colourOf("--muted"),
          linewidth: 2,
        });
      }
  }
  function startViewer() {
    if (drawn) return drawn;
    // A turn of the wheel scrolls the page unless Ctrl is held.
    find("viewer").addEventListener("wheel", (event) => event.ctrlKey || event.stopImmediatePropagation(), {
      capture: true,
    });
    try {
      drawn = $3Dmol.createViewer(find("viewer"), { backgroundColor: colourOf("--card"), antialias: true });
      drawn.getCanvas().setAttribute("aria-hidden", "true");
    } catch {
      drawn = null;
    }
    if (!drawn) {
      find("viewer-message").hidden = false;
      find("viewer-message").textContent = "This browser offers no WebGL, so there is no 3D view; cell and coordinates are listed.";
    }
    return drawn;
  }
  function draw() {
    const viewer = startViewer();
    if (!viewer) return;
    const structure = data.structures[current.dataset.row];
    viewer.removeAllModels();
    viewer.removeAllShapes();
    const model = viewer.addModel();
    model.addAtoms(bond(atomsOf(structure, big ? 2 : 1)));
    for (const symbol of structure.e) {
      const [color, radius] = data.atoms[symbol];
      viewer.setStyle({ elem: symbol }, { sphere: { color, radius: 0.42 * radius }, stick: { color, radius: 0.09 } });
    }
    drawCell(viewer, structure.m);
    look(viewer);
  }
  function look(viewer) {
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    viewer.zoomTo();
    viewer.rotate(-75, "x");
    viewer.rotate(-15, "y");
    viewer.render();
  }
  function tell() {
    const structure = data.structures[current.dataset.row];
    const facts = data.facts[current.dataset.row];
    find("structure-title").textContent = `${facts.rank}. ${facts.formula}`;
    find("viewer").setAttribute("aria-label", `3D view of ${facts.formula}: ${facts.text}`);
    find("structure-facts").replaceChildren(
      ...facts.list.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
    );
    find("legend").replaceChildren(
      ...structure.e.map((symbol) => {
        const item = element("li", symbol);
        const mark = document.createElement("span");
        mark.className = "atom";
        mark.style.backgroundColor = data.atoms[symbol][0];
        item.prepend(mark);
        return item;
      }),
    );
    const [a, b, c] = lengths(structure.m).map((v) => v.toFixed(3));
    const [alpha, beta, gamma] = angles(structure.m).map((v) => v.toFixed(2));
    find("lattice").textContent = `a ${a}, b ${b}, c ${c} Å; α ${alpha}°, β ${beta}°, γ ${gamma}°`;
    find("sites").tBodies[0].replaceChildren(
      ...structure.s.map((kind, i) => {
        const row = document.createElement("tr");
        row.append(
          element("td", structure.e[kind]),
          ...[0, 1, 2].map((k) => element("td", structure.x[3 * i + k].toFixed(4))),
        );
        return row;
      }),
    );
    for (const row of rows) row.classList.toggle("current", row === current);
  }
  function show(row, focus) {
    current = row;
    tell();
    draw();
    if (focus) {
      find("structure-title").focus({ preventScroll: true });
      find("structure").scrollIntoView({ block: "nearest" });
    }
  }
  function step(by) {
    const visible = rows.filter((row) => !row.hidden);
    if (!visible.length) return;
    const place = visible.indexOf(current);
    show(visible[(place + by + visible.length) % visible.length], false);
  }
  for (const row of rows) row.querySelector(".pick").addEventListener("click", () => show(row, true));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("cells").addEventListener("click", () => {
    big = !big;
    find("cells").setAttribute("aria-pressed", String(big));
    draw();
  });
  find("reset").addEventListener("click", () => drawn && look(drawn));
  for (const button of document.querySelectorAll("[data-turn]")) {
    const [axis, angle] = button.dataset.turn.split(",");
    button.addEventListener("click", () => drawn && (drawn.rotate(Number(angle), axis), drawn.render()));
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => drawn && (drawn.zoom(Number(button.dataset.zoom)), drawn.render()));
  }
  tell();
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw();
  }).observe(find("viewer"));
})();
