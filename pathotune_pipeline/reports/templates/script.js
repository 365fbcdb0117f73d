"use strict";
(() => {
  const table = document.querySelector("table.slides");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const tools = document.querySelector(".tools");
  const text = tools.querySelector("input");
  const status = tools.querySelector("select");
  const [back, forth] = tools.querySelectorAll("button");
  const told = tools.querySelector("output");
  const size = Number(table.dataset.page) || rows.length;
  let order = rows, page = 0;

  const matching = () => {
    const wanted = text.value.trim().toLowerCase();
    return order.filter((row) =>
      (!status.value || row.dataset.status === status.value) && (!wanted || row.dataset.find.toLowerCase().includes(wanted)));
  };
  const show = () => {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(page, pages - 1);
    const visible = new Set(found.slice(page * size, (page + 1) * size));
    for (const row of rows) row.hidden = !visible.has(row);
    back.hidden = forth.hidden = pages < 2;
    back.disabled = page === 0;
    forth.disabled = page >= pages - 1;
    const first = found.length ? page * size + 1 : 0;
    told.textContent = pages > 1 ? `${first}–${first + visible.size - 1} of ${found.length}` : `${found.length} of ${rows.length} ${table.dataset.what || "slides"}`;
  };
  const value = (row, column) => row.cells[column].dataset.value ?? "";
  const sort = (head, column) => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const numeric = head.classList.contains("n");
    order = [...rows].sort((a, b) => {
      const x = value(a, column), y = value(b, column);
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      return falling ? -by : by;
    });
    body.append(...order);
    page = 0;
    show();
  };
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("span"); // Chromium does not print a <button> in a repeated table head
    button.role = "button";
    button.tabIndex = 0;
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(head, column);
    });
    head.append(button);
  });
  for (const each of [text, status]) each.addEventListener("input", () => { page = 0; show(); });
  back.addEventListener("click", () => { page -= 1; show(); });
  forth.addEventListener("click", () => { page += 1; show(); });
  window.addEventListener("beforeprint", () => { for (const row of rows) row.hidden = false; });
  window.addEventListener("afterprint", show);

  const dialog = document.querySelector("dialog");
  body.addEventListener("click", (event) => {
    const picture = event.target.closest("td.picture img");
    if (!picture) return;
    dialog.querySelector("img").src = picture.src;
    dialog.querySelector("p").textContent = picture.alt;
    dialog.showModal();
  });
  dialog?.addEventListener("click", () => dialog.close());
  tools.hidden = false;
  show();
})();
