"use strict";
// A click on an element of a trial marks the trial in all charts and tables; another click, or Escape, unmarks it.
const caption = document.getElementById("picked");
let marked = null;
function mark(trial) {
  marked = trial === marked ? null : trial;
  for (const element of document.querySelectorAll("[data-t]")) element.classList.toggle("on", element.dataset.t === marked);
  document.body.classList.toggle("marking", marked !== null);
  const title = marked === null ? null : document.querySelector(`svg [data-t="${CSS.escape(marked)}"] title`);
  caption.hidden = marked === null;
  caption.textContent = marked === null ? "" : title ? title.textContent.split("\n")[0] : `trial ${marked}`;
}
document.addEventListener("click", (event) => {
  const element = event.target.closest("[data-t]");
  if (element) mark(element.dataset.t);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && marked !== null) mark(marked);
});
