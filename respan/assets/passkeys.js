// Passkeys: <form data-passkey="create|get" data-options="id of a JSON script"> with a field named `credential`. Pressing
// its button asks the browser; the answer is put into the field, and the form is sent. Without data-options the options
// are fetched from the form's own address (signing in). What goes wrong is said in [data-passkey-problem].
const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
const text = (buffer) => buffer && btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const known = (list) => list?.map((each) => ({ ...each, id: bytes(each.id) }));

const PROBLEMS = {
  NotAllowedError: "It was cancelled or took too long. Try again.",
  InvalidStateError: "This device holds a passkey of your account already.",
  ConstraintError: "This device cannot ask for a fingerprint, a face or a PIN. Untick the box, or use another one.",
  SecurityError: "Passkeys work only under the name this installation is reached by.",
};

// An address of digits has no name that a passkey could be bound to.
function whyNot() {
  if (/^[\d.]+$|^\[/.test(location.hostname)) return `Passkeys need a name instead of the address ${location.hostname}${location.hostname === "127.0.0.1" ? ": open this page at localhost" : ""}.`;
  if (!isSecureContext) return "Passkeys need https.";
  if (!globalThis.PublicKeyCredential) return "This browser has no passkeys.";
  return "";
}

async function optionsOf(form) {
  if (form.dataset.options) return JSON.parse(document.getElementById(form.dataset.options).textContent);
  const answer = await fetch(form.action, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(answer.status === 429 ? "Too many attempts. Wait a minute, then try again." : "The server cannot be reached. Try again in a moment.");
  return answer.json();
}

async function create(form) {
  const { publicKey } = (await optionsOf(form)).creation_options;
  const alone = form.elements.passwordless?.checked ?? true;
  const selection = {
    ...publicKey.authenticatorSelection,
    residentKey: alone ? "required" : "discouraged",
    requireResidentKey: alone,
    ...(alone ? { userVerification: "required" } : {}),
  };
  return navigator.credentials.create({
    publicKey: {
      ...publicKey,
      challenge: bytes(publicKey.challenge),
      user: { ...publicKey.user, id: bytes(publicKey.user.id) },
      excludeCredentials: known(publicKey.excludeCredentials),
      authenticatorSelection: selection,
    },
  });
}

async function get(form) {
  const { publicKey } = (await optionsOf(form)).request_options;
  return navigator.credentials.get({
    publicKey: { ...publicKey, challenge: bytes(publicKey.challenge), allowCredentials: known(publicKey.allowCredentials) },
  });
}

function written(credential) {
  const { response } = credential;
  const fields = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"];
  return JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    authenticatorAttachment: credential.authenticatorAttachment,
    clientExtensionResults: credential.getClientExtensionResults(),
    response: {
      ...Object.fromEntries(fields.filter((name) => name in response).map((name) => [name, text(response[name])])),
      ...(response.getTransports ? { transports: response.getTransports() } : {}),
    },
  });
}

function say(form, problem) {
  const place = form.querySelector("[data-passkey-problem]");
  place.textContent = problem;
  place.hidden = !problem;
}

export function passkeys() {
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const problem = whyNot();
    // Offered beside another way: only where it works. A page of its own says why it does not.
    if (form.hidden) form.hidden = Boolean(problem);
    else if (problem) {
      say(form, problem);
      for (const button of form.querySelectorAll("button:not([type])")) button.disabled = true;
    }
  }
  // Before the guard against sending twice: nothing is sent yet.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-passkey]")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    say(form, "");
    try {
      const credential = await (form.dataset.passkey === "create" ? create : get)(form);
      form.elements.credential.value = written(credential);
      form.submit();
    } catch (error) {
      say(form, PROBLEMS[error.name] ?? error.message);
    }
  }, true);
}
