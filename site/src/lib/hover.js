// In the page: the values at a moment, by pointer or arrow keys. They are read off the paths, so that
// the page need not hold them twice.
{
  const steps = {
    B: [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"], [1, " B"]],
    s: [[1, " s"], [1e-3, " ms"], [1e-6, " µs"]],
  };
  const shown = (value, unit) => {
    const [size, name] = (steps[unit] ?? []).find(([least]) => value >= least) ?? [1, unit];
    return `${Number((value / size).toPrecision(3))}${name}`;
  };
  const right = WIDTH - EDGE.right;
  const bottom = HEIGHT - EDGE.bottom;
  for (const svg of document.querySelectorAll("figure > svg")) {
    let lines, mark, values, x;
    const prepare = () => {
      lines = [...svg.querySelectorAll("path")].map((path) => ({
        name: path.dataset.name,
        points: [...path.getAttribute("d").matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map((one) => [
          Number(one[1]),
          Number(one[2]),
        ]),
      }));
      mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
      mark.classList.add("at");
      mark.setAttribute("y1", EDGE.top);
      mark.setAttribute("y2", bottom);
      svg.append(mark);
      values = document.createElement("output");
      values.className = "values";
      svg.parentElement.append(values);
    };
    const show = (wanted) => {
      if (!mark) prepare();
      const all = lines.flatMap(({ points }) => points);
      const near = (points) =>
        points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
      x = near(all)[0];
      const { from, to, top, unit } = svg.dataset;
      const at = Number(from) + ((x - EDGE.left) / (right - EDGE.left)) * (to - from);
      const text = [`${new Date(at).toISOString().slice(0, 19).replace("T", " ")} UTC`];
      for (const { name, points } of lines) {
        const [there, y] = near(points);
        // Beyond some points' distance there is a gap.
        if (Math.abs(there - x) > 6) continue;
        text.push(`${name}: ${shown(((bottom - y) / (bottom - EDGE.top)) * top, unit)}`);
      }
      mark.setAttribute("x1", x);
      mark.setAttribute("x2", x);
      values.textContent = text.join("\n");
      values.style[x > WIDTH / 2 ? "left" : "right"] = "4rem";
      values.style[x > WIDTH / 2 ? "right" : "left"] = "auto";
      mark.style.display = "";
      values.hidden = false;
    };
    const hide = () => {
      if (!mark) return;
      mark.style.display = "none";
      values.hidden = true;
    };
    svg.tabIndex = 0;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(((event.clientX - box.left) / box.width) * WIDTH);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(x ?? right));
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -4, ArrowRight: 4, Home: -WIDTH, End: WIDTH }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const before = x ?? right;
      // On to the next point in that direction, however far it is.
      const points = lines?.flatMap((line) => line.points.map((point) => point[0])) ?? [];
      const there = points.filter((one) => (step > 0 ? one > before : one < before));
      const next = step > 0 ? Math.min(...there) : Math.max(...there);
      show(Math.abs(step) === WIDTH || !there.length ? Math.min(Math.max(before + step, 0), WIDTH) : next);
    });
  }
}
