// Before anything is drawn: that scripts run, and the reader's choice of light or dark (the server writes it too).
document.documentElement.dataset.script = "yes";
const chosen = document.cookie.match(/(?:^|; )theme=(light|dark)/)?.[1];
if (chosen) document.documentElement.dataset.theme = chosen;
