// Draws the figures of a page: each `figure` with `data-kind`, by the function of that name, from
// the JSON inside it.
"use strict";
const figures = (() => {
  const functions = new Map();

  // Draws a figure, unless it has been drawn at this width.
  function draw(figure) {
    const width = Math.floor(figure.clientWidth);
    const drawFigure = functions.get(figure.dataset.kind);
    if (!drawFigure || width === 0 || figure.dataset.width === String(width)) return;
    figure.dataset.width = width;
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    figure.querySelectorAll(":scope > :not(script):not(figcaption)").forEach((old) => old.remove());
    figure.prepend(drawFigure(data, width));
  }

  // Figures that have come near the visible part of the page, which are drawn again when their width changes.
  // In the next frame: a figure that changes its height within the observer's call would be reported as an error.
  const resized = new ResizeObserver((entries) => requestAnimationFrame(() => entries.forEach((entry) => draw(entry.target))));
  const visible = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((entry) => entry.isIntersecting)) {
        visible.unobserve(entry.target);
        resized.observe(entry.target);
      }
    },
    { rootMargin: "400px" },
  );

  return {
    // Registers the function that draws the figures of a kind, and those figures below `root`.
    define(kind, drawFigure) {
      functions.set(kind, drawFigure);
      figures.observe(document, kind);
    },
    // Registers figures that a script has added below `root`: all, or those of a kind.
    observe(root, kind) {
      const which = kind ? `figure[data-kind="${kind}"]` : "figure[data-kind]";
      root.querySelectorAll(which).forEach((figure) => visible.observe(figure));
    },
    // Draws everything at once, for printing and for pictures of the page.
    drawAll() {
      document.querySelectorAll("figure[data-kind]").forEach((figure) => {
        visible.unobserve(figure);
        resized.observe(figure);
        draw(figure);
      });
    },
  };
})();
addEventListener("beforeprint", () => figures.drawAll());
