// <time datetime="…"> says the reader's own time on hover, beside the exact UTC the server wrote.
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

export function times(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([data-ready])")) {
    time.dataset.ready = "yes";
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = [time.title, `${local.format(moment)} (your time)`].filter(Boolean).join("\n");
  }
}
