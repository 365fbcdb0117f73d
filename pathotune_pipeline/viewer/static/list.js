"use strict";
(() => {
  const text = document.querySelector("input"), told = document.querySelector("output");
  const rows = Array.from(document.querySelector("tbody").rows);
  const words = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    let count = 0;
    rows.forEach((row, at) => {
      row.hidden = !words[at].includes(wanted);
      count += !row.hidden;
    });
    told.textContent = `${count} of ${rows.length} slides`;
  };
  text.addEventListener("input", show);
  show();
})();
