"use strict";
// The confusion matrix, on a canvas: `view` is the square of cells in sight, [x, x + size) and [y, y + size).
function drawMatrix(cells) {
  const canvas = document.getElementById("matrix"), context = canvas.getContext("2d");
  const count = cells.classes.length, note = document.getElementById("cell"), about = document.getElementById("about-class");
  const cellsOf = new Map(), rowsOf = cells.classes.map(() => []), columnsOf = cells.classes.map(() => []);
  cells.counts.forEach((number, place) => {
    const row = cells.rows[place], column = cells.columns[place];
    cellsOf.set(row * count + column, number);
    rowsOf[row].push([column, number]);
    columnsOf[column].push([row, number]);
  });
  const accuracy = cells.classes.map((name, c) => cells.samples[c] ? (cellsOf.get(c * count + c) || 0) / cells.samples[c] : 2);
  const ids = cells.classes.map((name, c) => c);
  const orders = {
    confusion: cells.order,
    accuracy: [...ids].sort((a, b) => accuracy[a] - accuracy[b]),
    name: [...ids].sort((a, b) => cells.classes[a].localeCompare(cells.classes[b])),
  };
  let order, placeOf, view = {x: 0, y: 0, size: count}, pointed = null, chosen = null, box, margin, colors;
  const setOrder = name => { order = orders[name]; placeOf = []; order.forEach((c, place) => { placeOf[c] = place; }); };
  setOrder("confusion");

  function readColors() {
    const style = getComputedStyle(document.documentElement), get = name => style.getPropertyValue(name).trim();
    colors = {right: get("--right"), wrong: get("--wrong"), text: get("--text"), quiet: get("--quiet"), edge: get("--edge"), page: get("--page"), card: get("--card")};
  }

  function resize() {
    const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
    context.font = "12px system-ui, sans-serif";
    const longest = Math.max(...cells.classes.map(name => context.measureText(name.slice(0, 40)).width));
    margin = Math.round(Math.min(longest + 14, width * 0.22, 160));
    const side = width - margin;
    canvas.width = width * ratio;
    canvas.height = width * ratio;
    canvas.style.height = `${width}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    box = {left: margin, top: margin, side};
    draw();
  }

  const toX = place => box.left + (place - view.x) / view.size * box.side;
  const toY = place => box.top + (place - view.y) / view.size * box.side;
  // Cells of a few pixels are drawn stronger, or a mistake in one of 50 would not be seen.
  const shade = (fraction, step) => step < 6 ? 0.22 + 0.78 * Math.min(1, 1.6 * Math.sqrt(fraction)) : 0.14 + 0.86 * Math.sqrt(fraction);

  function draw() {
    const step = box.side / view.size, side = Math.max(step - (step > 6 ? 1 : 0), 2);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientWidth);
    context.fillStyle = colors.page;
    context.fillRect(box.left, box.top, box.side, box.side);
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.side, box.side);
    context.clip();
    drawLines(step);
    const shows = (x, y) => x > -1 && y > -1 && x < view.size && y < view.size;
    for (const [row, entries] of rowsOf.entries()) {
      const y = placeOf[row] - view.y;
      if (y <= -1 || y >= view.size) continue;
      for (const [column, number] of entries) {
        const x = placeOf[column] - view.x;
        if (!shows(x, y)) continue;
        const fraction = number / cells.samples[row];
        context.fillStyle = `rgba(${row === column ? colors.right : colors.wrong}, ${shade(fraction, step).toFixed(3)})`;
        context.fillRect(box.left + x * step, box.top + y * step, side, side);
        if (step >= 30) drawNumber(number, fraction, box.left + (x + 0.5) * step, box.top + (y + 0.5) * step, step);
      }
    }
    drawMarks(step);
    context.restore();
    drawNames(step);
    canvas.classList.toggle("near", view.size < count);
  }

  function drawLines(step) {
    if (step < 9) return;
    context.strokeStyle = colors.edge;
    context.lineWidth = 0.5;
    context.beginPath();
    for (let place = Math.floor(Math.min(view.x, view.y)); place <= Math.max(view.x, view.y) + view.size; place++) {
      context.moveTo(toX(place) - 0.5, box.top); context.lineTo(toX(place) - 0.5, box.top + box.side);
      context.moveTo(box.left, toY(place) - 0.5); context.lineTo(box.left + box.side, toY(place) - 0.5);
    }
    context.stroke();
  }

  function drawNumber(number, fraction, x, y, step) {
    context.fillStyle = fraction > 0.3 ? colors.card : colors.text;
    context.font = `${Math.min(15, Math.round(step / 2.8))}px system-ui, sans-serif`;
    context.textAlign = "center"; context.textBaseline = "middle";
    context.fillText(String(number), x, y);
  }

  function drawMarks(step) {
    const mark = (row, column) => {
      context.strokeStyle = colors.quiet;
      context.lineWidth = 1;
      const side = Math.max(step, 3);
      context.strokeRect(box.left, toY(placeOf[row]), box.side, side);
      context.strokeRect(toX(placeOf[column]), box.top, side, box.side);
    };
    if (pointed) mark(pointed.row, pointed.column);
    else if (chosen !== null) mark(chosen, chosen);
  }

  function drawNames(step) {
    const size = step > 30 ? 12 : box.side < 350 ? 10 : 11.5, every = Math.max(1, Math.ceil((size + 1) / step));
    context.font = `${size}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const named = [];
    for (let place = 0; place < count; place += every) named.push(place);
    const label = (place, across, strong) => {
      const from = across ? view.x : view.y;
      if (place + 0.25 < from || place + 0.75 > from + view.size) return;  // but half of it in sight
      const at = (across ? toX : toY)(place + 0.5), text = shorten(cells.classes[order[place]], margin - 8);
      context.save();
      context.translate(across ? at : box.left - 5, across ? box.top - 5 : at);
      if (across) context.rotate(-Math.PI / 2);
      context.textAlign = across ? "left" : "right";
      if (strong) {
        const width = context.measureText(text).width + 6;
        context.fillStyle = colors.text;
        context.fillRect(across ? -3 : -width + 3, -size * 0.65, width, size * 1.3);
      }
      context.fillStyle = strong ? colors.card : every > 1 ? colors.quiet : colors.text;
      context.fillText(text, 0, 0);
      context.restore();
    };
    for (const place of named) { label(place, true, false); label(place, false, false); }
    const at = pointed || (chosen !== null ? {row: chosen, column: chosen} : null);
    if (at) { label(placeOf[at.row], false, true); label(placeOf[at.column], true, true); }
  }

  function shorten(text, width) {
    if (context.measureText(text).width <= width) return text;
    let length = text.length;
    while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
    return `${text.slice(0, length)}…`;
  }

  const percent = fraction => `${(100 * fraction).toFixed(1)} %`;

  function describe(cell) {
    note.textContent = "";
    if (!cell) return;
    const number = cellsOf.get(cell.row * count + cell.column) || 0, total = cells.samples[cell.row];
    const bold = text => { const node = make("b"); node.append(make("bdi", text)); return node; };
    note.append(bold(cells.classes[cell.row]));
    if (cell.row === cell.column) note.append(" recognised: ");
    else note.append(" taken for ", bold(cells.classes[cell.column]), ": ");
    note.append(`${number} of ${total}${total ? `, ${percent(number / total)}` : ""}`);
  }

  // The part of a class in the confusions, as buttons that lead on.
  function showClass(c, move = true) {
    chosen = c;
    pointed = null;
    about.textContent = "";
    const heading = make("h3");
    heading.append(make("bdi", cells.classes[c]));
    const right = cellsOf.get(c * count + c) || 0, total = cells.samples[c];
    about.append(heading, make("p", total ? `${right} of ${total} right, ${percent(right / total)}` : "no samples"));
    const list = (title, entries) => {
      const others = entries.filter(([other]) => other !== c).sort((a, b) => b[1] - a[1]).slice(0, 8);
      if (!others.length) return;
      const line = make("p", `${title} `);
      for (const [other, number] of others) line.append(make("button", `${cells.classes[other]} ${number}×`, () => showClass(other)));
      about.append(line);
    };
    list("taken for", rowsOf[c]);
    list("taken for it:", columnsOf[c]);
    if (move) center(placeOf[c], placeOf[c], Math.min(count, 24));
    describe({row: c, column: c});
    draw();
  }

  function center(x, y, size) {
    view.size = Math.min(count, Math.max(size, Math.min(count, 4)));
    view.x = Math.round(x + 0.5 - view.size / 2);
    view.y = Math.round(y + 0.5 - view.size / 2);
    clamp();
  }

  function clamp() {
    view.x = Math.max(0, Math.min(count - view.size, view.x));
    view.y = Math.max(0, Math.min(count - view.size, view.y));
  }

  // `x` and `y`, cells, stay where they are in the picture.
  function zoom(factor, x = view.x + view.size / 2, y = view.y + view.size / 2) {
    const size = Math.min(count, Math.max(Math.min(count, 4), view.size * factor));
    view.x = x - (x - view.x) * size / view.size;
    view.y = y - (y - view.y) * size / view.size;
    view.size = size;
    clamp();
    draw();
  }

  function at(event) {
    const frame = canvas.getBoundingClientRect();
    const x = view.x + (event.clientX - frame.left - box.left) / box.side * view.size;
    const y = view.y + (event.clientY - frame.top - box.top) / box.side * view.size;
    return {x, y, inside: x >= view.x && y >= view.y && x < view.x + view.size && y < view.y + view.size};
  }

  const held = new Map();
  let moved = 0;
  const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1; };

  function point(event) {
    const {x, y, inside} = at(event);
    pointed = inside ? {row: order[Math.floor(y)], column: order[Math.floor(x)]} : null;
    describe(pointed);
    draw();
  }

  canvas.addEventListener("pointerdown", event => { held.set(event.pointerId, event); moved = 0; canvas.setPointerCapture(event.pointerId); point(event); });
  canvas.addEventListener("pointermove", event => {
    const before = held.get(event.pointerId);
    if (!before) return point(event);
    const old = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, event);
    moved += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    if (held.size === 2) {
      const [a, b] = [...held.values()];
      const middle = at({clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2});
      zoom(old / spread(), middle.x, middle.y);
    } else if (view.size < count) {
      view.x -= (event.clientX - before.clientX) / box.side * view.size;
      view.y -= (event.clientY - before.clientY) / box.side * view.size;
      clamp();
      draw();
    }
  });
  const release = event => {
    if (held.delete(event.pointerId) && event.type === "pointerup" && moved < 5 && pointed) showClass(pointed.row, false);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!held.size) { pointed = null; draw(); } });
  canvas.addEventListener("dblclick", event => { const {x, y} = at(event); zoom(0.5, x, y); });
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const {x, y} = at(event);
    zoom(Math.exp(event.deltaY / 300), x, y);
  }, {passive: false});
  canvas.addEventListener("keydown", event => {
    const step = view.size / 8, keys = {
      "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1.4), "0": () => zoom(count),
      ArrowLeft: () => { view.x -= step; }, ArrowRight: () => { view.x += step; }, ArrowUp: () => { view.y -= step; }, ArrowDown: () => { view.y += step; },
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
    clamp();
    draw();
  });
  all("[data-zoom]").forEach(button => button.addEventListener("click", () => zoom({in: 0.6, out: 1 / 0.6, all: count}[button.dataset.zoom])));
  document.getElementById("order").addEventListener("change", event => { setOrder(event.target.value); view = {x: 0, y: 0, size: count}; pointed = null; draw(); });
  const find = document.getElementById("find-cell"), found = document.getElementById("found");
  find.addEventListener("input", () => {
    found.textContent = "";
    const numbers = matching(cells.classes, find.value);
    numbers.slice(0, 12).forEach(c => found.append(make("button", cells.classes[c], () => showClass(c))));
    if (numbers.length > 12) found.append(make("small", `and ${numbers.length - 12} more`));
    if (find.value.trim() && !numbers.length) found.append(make("small", "no class of that name"));
  });
  find.addEventListener("keydown", event => { if (event.key === "Enter" && found.querySelector("button")) found.querySelector("button").click(); });
  all(".pairs button").forEach(button => button.addEventListener("click", () => {
    const row = Number(button.dataset.row), column = Number(button.dataset.column);
    showClass(row, false);
    pointed = {row, column};
    center(placeOf[column], placeOf[row], Math.min(count, 24));
    describe(pointed);
    draw();
    canvas.scrollIntoView({block: "nearest"});
  }));

  readColors();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); draw(); });
  new ResizeObserver(() => { if (canvas.clientWidth && canvas.width !== Math.floor(canvas.clientWidth * (devicePixelRatio || 1))) resize(); }).observe(canvas);
  resize();
  return {showClass};
}
