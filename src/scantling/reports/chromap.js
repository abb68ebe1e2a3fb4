// Move over a pixel: the pixels whose features point in the same direction light up in every view.
"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const DIM = 0.62, RING = 11, ZERO = 128, ALIKE = 0.97; // what is as alike as that lights up, however much it is

  const picture = (source) =>
    new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error("a picture of this page is damaged"));
      image.src = source;
    });
  const bytes = (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height).data;
  };

  const diskImage = await picture(data.disk);
  const disk = bytes(diskImage), side = data.side, middle = (side - 1) / 2;
  const colourAt = (x, y) => 4 * ((middle - y) * side + (middle + x)); // x to the right, y upwards

  // A panel's codes are one grey picture: its planes stand one below the other, the last two are places in the disk.
  const prepare = async (said, index) => {
    const { rows, columns } = said, n = rows * columns, dimensions = data.dimensions;
    const raw = bytes(await picture(said.codes));
    const codes = new Int8Array(dimensions * n), inverse = new Float32Array(n), x = new Int16Array(n), y = new Int16Array(n);
    for (let i = 0; i < n; i++) {
      let square = 0;
      for (let k = 0; k < dimensions; k++) {
        const value = raw[4 * (k * n + i)] - ZERO;
        codes[k * n + i] = value;
        square += value * value;
      }
      inverse[i] = square > 0 ? 1 / Math.sqrt(square) : 0;
      x[i] = raw[4 * (dimensions * n + i)] - ZERO;
      y[i] = raw[4 * ((dimensions + 1) * n + i)] - ZERO;
    }
    const map = new ImageData(columns, rows);
    for (let i = 0; i < n; i++) {
      map.data.set(disk.subarray(colourAt(x[i], y[i]), colourAt(x[i], y[i]) + 3), 4 * i);
      map.data[4 * i + 3] = 255;
    }
    const layer = (image) => {
      const canvas = document.createElement("canvas");
      canvas.width = columns;
      canvas.height = rows;
      canvas.getContext("2d").putImageData(image, 0, 0);
      return canvas;
    };
    const figure = document.querySelector(`figure[data-panel="${index}"]`), canvas = figure.querySelector("canvas");
    return {
      rows, columns, n, codes, inverse, x, y, layer, figure, canvas, map: layer(map), lit: new ImageData(columns, rows),
      cosine: new Float32Array(n), base: await picture(said.picture), pen: canvas.getContext("2d"),
      nearest: figure.querySelector(".nearest"),
    };
  };
  const panels = await Promise.all(data.panels.map(prepare));

  let chosen = null, held = false, waiting = false;

  const resting = (panel) => {
    const { pen, canvas } = panel;
    pen.globalAlpha = 1;
    pen.drawImage(panel.base, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = Number(byId("opacity").value) / 100;
    pen.imageSmoothingEnabled = !data.blocks;
    pen.drawImage(panel.map, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
    panel.nearest.textContent = "";
    delete panel.figure.dataset.nearest;
  };

  const compare = () => {
    const from = panels[chosen.panel], counts = new Uint32Array(1025);
    let total = 0;
    for (const panel of panels) {
      const { n, codes, cosine } = panel;
      cosine.fill(0);
      for (let k = 0; k < data.dimensions; k++) {
        const value = from.codes[k * from.n + chosen.pixel], first = k * n;
        if (value) for (let i = 0; i < n; i++) cosine[i] += value * codes[first + i];
      }
      const own = from.inverse[chosen.pixel];
      panel.best = 0;
      for (let i = 0; i < n; i++) {
        cosine[i] *= own * panel.inverse[i];
        if (cosine[i] > cosine[panel.best]) panel.best = i;
        counts[Math.floor(512 * (1 + Math.max(-1, Math.min(1, cosine[i]))))]++;
      }
      total += n;
    }
    const wanted = (total * Number(byId("share").value)) / 100;
    let bin = 1024, passed = counts[1024];
    while (bin > 0 && (passed + counts[bin - 1] <= wanted || bin / 512 - 1 > ALIKE)) passed += counts[--bin];
    return { least: bin / 512 - 1, part: (100 * passed) / total };
  };

  const ring = (panel, pixel, dot) => {
    const { pen, canvas } = panel;
    const at = [
      (((pixel % panel.columns) + 0.5) * canvas.width) / panel.columns,
      ((Math.floor(pixel / panel.columns) + 0.5) * canvas.height) / panel.rows,
    ];
    for (const [style, line] of [["#000000", 7], ["#ffffff", 3.5]]) {
      pen.strokeStyle = style;
      pen.lineWidth = line;
      pen.beginPath();
      pen.arc(...at, RING, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (dot) {
      pen.fillStyle = "#ffffff";
      pen.beginPath();
      pen.arc(...at, 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  };

  const light = (panel, index, least, colour) => {
    const { pen, canvas, lit, cosine } = panel, span = 1 - least;
    for (let i = 0; i < panel.n; i++) {
      const over = (cosine[i] - least) / span;
      lit.data.set(colour, 4 * i);
      lit.data[4 * i + 3] = over < 0 ? 0 : 80 + 120 * Math.min(1, over);
    }
    pen.globalAlpha = 1;
    pen.drawImage(panel.base, 0, 0, canvas.width, canvas.height);
    pen.fillStyle = `rgba(0, 0, 0, ${DIM})`;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(panel.layer(lit), 0, 0, canvas.width, canvas.height);
    if (index === chosen.panel) ring(panel, chosen.pixel, true);
    else ring(panel, panel.best, false);
    const best = cosine[panel.best];
    panel.nearest.textContent = index === chosen.panel ? "here" : best.toFixed(2);
    panel.figure.dataset.nearest =
      `${Math.floor(panel.best / panel.columns)},${panel.best % panel.columns},${best.toFixed(3)}`;
  };

  const legend = () => {
    const canvas = byId("legend"), pen = canvas.getContext("2d"), centre = canvas.width / 2, radius = centre - 10;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.save();
    pen.beginPath();
    pen.arc(centre, centre, radius, 0, 2 * Math.PI);
    pen.clip();
    pen.drawImage(diskImage, centre - radius, centre - radius, 2 * radius, 2 * radius);
    pen.restore();
    if (!chosen) return;
    const panel = panels[chosen.panel], scale = radius / (middle + 0.5);
    const at = [centre + panel.x[chosen.pixel] * scale, centre - panel.y[chosen.pixel] * scale];
    for (const [style, width] of [["#ffffff", 7], ["#1c1c1c", 3.5]]) {
      pen.beginPath();
      pen.arc(...at, 7, 0, 2 * Math.PI);
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.stroke();
    }
  };

  const draw = () => {
    waiting = false;
    legend();
    document.body.classList.toggle("held", held);
    if (!chosen) {
      panels.forEach(resting);
      byId("readout").textContent = data.hint;
      return;
    }
    const { least, part } = compare(), from = panels[chosen.panel];
    const first = colourAt(from.x[chosen.pixel], from.y[chosen.pixel]);
    const colour = Array.from(disk.subarray(first, first + 3), (part) => part + 0.25 * (255 - part)); // lit, not tinted
    panels.forEach((panel, index) => light(panel, index, least, colour));
    byId("readout").textContent =
      `${part < 10 ? part.toFixed(1) : part.toFixed(0)} % of all pixels light up: their cosine with this one is ` +
      `${least.toFixed(2)} or more. ${held ? "Click again to let go." : "Click to hold this pixel."}`;
  };
  const later = () => {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  };

  const choose = (index, event) => {
    const panel = panels[index], box = panel.canvas.getBoundingClientRect();
    const part = (at, length, n) => Math.min(n - 1, Math.max(0, Math.floor((at / length) * n)));
    const row = part(event.clientY - box.top, box.height, panel.rows);
    chosen = { panel: index, pixel: row * panel.columns + part(event.clientX - box.left, box.width, panel.columns) };
    later();
  };
  const release = () => {
    held = false;
    chosen = null;
    later();
  };

  panels.forEach((panel, index) => {
    panel.canvas.addEventListener("pointermove", (event) => held || choose(index, event));
    panel.canvas.addEventListener("pointerleave", () => held || release());
    panel.canvas.addEventListener("click", (event) => {
      held = !held;
      choose(index, event);
    });
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && release());
  for (const id of ["opacity", "share"]) byId(id).addEventListener("input", later);

  // `#panel,row,column` holds a pixel, so that a link can show it.
  const linked = () => {
    const [index, row, column] = location.hash.slice(1).split(",").map(Number);
    const panel = panels[index];
    if (!panel || !(row >= 0 && row < panel.rows && column >= 0 && column < panel.columns)) return;
    held = true;
    chosen = { panel: index, pixel: Math.floor(row) * panel.columns + Math.floor(column) };
    later();
  };
  addEventListener("hashchange", linked);
  linked();
  draw();
  document.body.dataset.ready = "yes";
})();
