// Makes the page keep itself fresh. Without it everything works by links and forms.
"use strict";
(() => {
  const EVERY = 10000;
  const find = (id) => document.getElementById(id);
  const filter = find("filter"), probe = find("probe"), answer = find("answer"), pause = find("pause");
  let timer = 0, typing = 0, newest = 0;

  const address = () => {
    const wanted = new URLSearchParams(new FormData(filter));
    for (const [key, value] of [...wanted]) if (!value) wanted.delete(key);
    const page = new URLSearchParams(location.search).get("page");
    if (page) wanted.set("page", page);
    const text = wanted.toString();
    return text ? "?" + text : location.pathname;
  };

  const refresh = async (to = location.href) => {
    const turn = ++newest;
    try {
      const response = await fetch(to, { headers: { Accept: "text/html" } });
      if (!response.ok || turn !== newest) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("live"), shown = find("live");
      if (!fresh) return;
      const focused = shown.contains(document.activeElement) && document.activeElement.getAttribute("href");
      const counts = (of) => of.querySelector(".counts")?.textContent.replace(/\s+/g, " ").trim();
      const news = counts(fresh) !== counts(shown) ? counts(fresh) : "";
      shown.replaceWith(fresh);
      document.title = page.title;
      if (focused) [...fresh.querySelectorAll("a")].find((it) => it.getAttribute("href") === focused)?.focus();
      if (news) find("news").textContent = news;
      find("stale").hidden = true;
    } catch {
      find("stale").hidden = false;
    }
  };

  const schedule = () => {
    clearInterval(timer);
    if (pause.getAttribute("aria-pressed") === "false") {
      timer = setInterval(() => { if (!document.hidden && !String(getSelection())) refresh(); }, EVERY);
    }
  };

  const ask = async (url) => {
    answer.hidden = false;
    answer.textContent = "Probing …";
    try {
      // Without it, a module without a timeout of its own would make a person wait two minutes.
      const headers = { "X-Prometheus-Scrape-Timeout-Seconds": "10.5" };
      answer.textContent = await (await fetch(url, { headers })).text();
    } catch {
      answer.textContent = "The exporter did not answer.";
    }
    answer.focus();
    refresh();
  };

  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const url = new URL(location);
      url.searchParams.delete("page");
      history.replaceState(null, "", url);
      history.replaceState(null, "", address());
      refresh();
    }, 250);
  });
  probe.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(probe.action + "?" + new URLSearchParams(new FormData(probe)));
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.now");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    ask(link.href);
  });
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") === "true";
    pause.setAttribute("aria-pressed", String(!paused));
    schedule();
  });
  schedule();
})();
