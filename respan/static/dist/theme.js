document.documentElement.dataset.script="yes";var e=document.cookie.match(/(?:^|; )theme=(light|dark)/)?.[1];e&&(document.documentElement.dataset.theme=e);
