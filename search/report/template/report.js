"use strict";
// A click on anything that belongs to a trial marks it wherever it is drawn; another click, or Escape, lets go.
const said = document.getElementById("picked");
let marked = null;
function mark(trial) {
  marked = trial === marked ? null : trial;
  for (const one of document.querySelectorAll("[data-t]")) one.classList.toggle("on", one.dataset.t === marked);
  document.body.classList.toggle("marking", marked !== null);
  const about = marked === null ? null : document.querySelector(`svg [data-t="${CSS.escape(marked)}"] title`);
  said.hidden = marked === null;
  said.textContent = marked === null ? "" : about ? about.textContent.split("\n")[0] : `trial ${marked}`;
}
document.addEventListener("click", (event) => {
  const one = event.target.closest("[data-t]");
  if (one) mark(one.dataset.t);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && marked !== null) mark(marked);
});
