// Without this script the form posts itself; with it, errors appear beside what was typed.
"use strict";

const form = document.getElementById("sign-in");
const error = document.getElementById("error");
const button = form.querySelector("button");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  button.disabled = true;
  try {
    const message = await signIn(form.username.value, form.password.value);
    if (message === null) {
      location.assign("/graphql");
      return;
    }
    show(message);
  } catch {
    show("The server did not answer. Is it still running?");
  }
  button.disabled = false;
});

/** Null when signed in, else what the server says against it. */
async function signIn(username, password) {
  const response = await fetch("/sign-in", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify({ username, password }),
  });
  if (response.ok) return null;
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server refused the sign-in (HTTP ${response.status}).`;
}

function show(message) {
  error.textContent = message;
  error.hidden = false;
  form.password.select();
}
