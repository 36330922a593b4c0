// A real authorization server: npm's oidc-provider on a free port of this machine, with tokens for the resource that a client
// names, clients that register themselves or are named by a document, PKCE, rotated refresh tokens, and people who agree to
// everything at once.
// It prints its address as one line of JSON when it listens, and ends with its stdin or on SIGTERM.
//
// What is under /test is no part of an authorization server but a test's hand in it:
//   POST /test/rotate   a new signing key; the one before is withdrawn
//   POST /test/token    {"header": {…}, "claims": {…}, "key": …} gives a token that says exactly this, whatever it is
//   GET  /test/asked    how often anybody asked for its metadata and its keys
// Who logs in is said by `login_hint`, as whom a client expects.

import { createHmac, createPublicKey, generateKeyPairSync, randomBytes, randomUUID, sign } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { Provider } from "oidc-provider";

// --token-seconds N   how long access tokens are good (default: 300)
// --port N            where it listens (default: a free port)

/** A client that never registered: its id is where its metadata would be, were there a network. */
export const DOCUMENT = "https://client.example.com/oauth/client.json";
const CALLBACK = "http://127.0.0.1/callback";
const SCOPES = ["appointments:read", "appointments:write"];

const { values } = parseArgs({
  options: { "token-seconds": { type: "string", default: "300" }, port: { type: "string", default: "0" } },
});
// oidc-provider says on stdout what else one could configure, where nobody but a test reads.
console.info = console.error;

const cookies = [randomUUID()];
const asked = { metadata: 0, keys: 0 };
const keys = { current: key(), withdrawn: null, stranger: key() };
let provider;

function key() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { privateKey, jwk: { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), alg: "RS256", use: "sig" } };
}

/** An authorization server with the current key. What it remembers is in a store that all of them share. */
function authorizationServer(issuer) {
  const server = new Provider(issuer, {
    jwks: { keys: [keys.current.jwk] },
    cookies: { keys: cookies },
    clientAuthMethods: ["none"],
    clientDefaults: { token_endpoint_auth_method: "none", grant_types: ["authorization_code", "refresh_token"] },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_, interaction) => `/test/interaction/${interaction.uid}` },
    pkce: { required: () => true },
    rotateRefreshToken: () => true,
    responseTypes: ["code"],
    scopes: ["openid", "offline_access", ...SCOPES],
    features: {
      devInteractions: { enabled: false },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: SCOPES.join(" "),
          audience: resource,
          accessTokenFormat: "jwt",
          accessTokenTTL: Number(values["token-seconds"]),
          jwt: { sign: { alg: "RS256" } },
        }),
      },
      clientIdMetadataDocument: { enabled: true, ack: "draft-02" },
    },
    // No document of another machine is asked for, and this one is known by heart.
    fetch: async (url) => (url === DOCUMENT ? Response.json(metadata()) : new Response(null, { status: 404 })),
  });
  server.on("server_error", (_, error) => console.error(error));
  return server;
}

function metadata() {
  return {
    client_id: DOCUMENT,
    client_name: "A client of the tests",
    application_type: "native",
    redirect_uris: [CALLBACK],
    token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
  };
}

/** Logs in whom the client expects, and agrees to what it asks for and nothing more. */
async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    const login = { accountId: params.login_hint ?? "ada" };
    return provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
  }
  const grant =
    (grantId && (await provider.Grant.find(grantId))) ??
    new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope = [], missingResourceScopes = {} } = prompt.details;
  grant.addOIDCScope(missingOIDCScope.join(" "));
  for (const [resource, scopes] of Object.entries(missingResourceScopes)) grant.addResourceScope(resource, scopes.join(" "));
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

/** A token as it was asked for: what is not said is as in a good one, what is null is left out. It is for nobody (`aud`). */
function token({ header = {}, claims = {}, key: name = "current" }) {
  const now = Math.floor(Date.now() / 1000);
  const good = { iss: provider.issuer, sub: "ada", iat: now, exp: now + 300, jti: randomUUID(), scope: SCOPES.join(" ") };
  const signer = keys[name] ?? keys.current;
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const without = (value) => Object.fromEntries(Object.entries(value).filter(([, value]) => value !== null));
  // `true` stands for the public half of whatever signs.
  const jwk = header.jwk === true ? { jwk: { kty: "RSA", n: signer.jwk.n, e: signer.jwk.e } } : {};
  const head = without({ alg: "RS256", typ: "at+jwt", kid: signer.jwk.kid, ...header, ...jwk });
  const message = `${part(head)}.${part(without({ ...good, ...claims }))}`;
  return `${message}.${signature(name, signer, head, message)}`;
}

/** Under a key of this server, or as somebody does who has the public half of it and nothing else. */
function signature(name, { privateKey, jwk }, { alg }, message) {
  const secrets = {
    "public pem": () => createPublicKey(privateKey).export({ format: "pem", type: "spki" }),
    "public der": () => createPublicKey(privateKey).export({ format: "der", type: "spki" }),
    "public modulus": () => Buffer.from(jwk.n, "base64url"),
  };
  if (name === "none") return "";
  if (name === "noise") return randomBytes(256).toString("base64url");
  if (secrets[name]) return createHmac("sha256", secrets[name]()).update(message).digest("base64url");
  const padding = alg?.startsWith("PS") ? { padding: 6, saltLength: 32 } : {};
  return sign("sha256", Buffer.from(message), { key: privateKey, ...padding }).toString("base64url");
}

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return chunks.length ? JSON.parse(Buffer.concat(chunks)) : {};
}

async function answer(request, response) {
  const { pathname } = new URL(request.url, provider.issuer);
  const json = (value) => response.setHeader("content-type", "application/json").end(JSON.stringify(value));
  if (pathname.startsWith("/.well-known/")) asked.metadata += 1;
  if (pathname === "/jwks") asked.keys += 1;
  if (pathname.startsWith("/test/interaction/")) return interact(request, response);
  switch (`${request.method} ${pathname}`) {
    case "POST /test/rotate":
      keys.withdrawn = keys.current;
      keys.current = key();
      provider = authorizationServer(provider.issuer);
      return json({ kid: keys.current.jwk.kid });
    case "POST /test/token":
      return json({ token: token(await body(request)) });
    case "GET /test/asked":
      return json(asked);
    case "POST /reg": {
      // The clients register for what they want to begin with. As a limit it would keep them from ever asking for more.
      const { scope, ...registered } = await body(request);
      request.body = registered;
      return provider.callback()(request, response);
    }
    default:
      return provider.callback()(request, response);
  }
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.statusCode = 500;
    response.end();
  });
});
server.listen(Number(values.port), "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  provider = authorizationServer(issuer);
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
});

function leave() {
  server.close();
  server.closeAllConnections();
  process.stdin.destroy();
}
process.once("SIGTERM", leave);
process.stdin.once("end", leave).resume();
