// Draws a log-mel spectrogram: a picture between axes of seconds and of Hz on the mel scale.
"use strict";
figures.define("spectrogram", (data, width) => {
  const names = new Map(data.ticks);
  const [left, right] = data.seconds;
  const [bottom, top] = data.mels;
  const picture = (index, { x, y }) =>
    d3
      .create("svg:image")
      .attr("href", data.picture)
      .attr("x", x(left))
      .attr("y", y(top))
      .attr("width", x(right) - x(left))
      .attr("height", y(bottom) - y(top))
      .attr("preserveAspectRatio", "none")
      .node();
  return Plot.plot({
    width,
    height: Math.round(Math.min(190, 110 + width / 8)),
    marginTop: 18,
    marginLeft: 36,
    marginRight: 8,
    marginBottom: 32,
    x: { domain: [0, right] },
    y: { domain: data.axis },
    marks: [
      picture,
      Plot.axisX({ ticks: Math.min(10, Math.max(3, width / 60)), label: "seconds" }),
      Plot.axisY([...names.keys()], {
        tickFormat: (mel) => (names.get(mel) < 1000 ? String(names.get(mel)) : `${names.get(mel) / 1000}k`),
        label: "Hz",
      }),
    ],
  });
});
