//! Asking others over HTTP: replicas, an authorization server, Prometheus, a webhook. Every question has a deadline, and no answer
//! is read past a limit.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsSchemes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Asks. Cheap to clone; the clones share connections.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    bearer: Option<Bearer>,
}

/// An access token. It is shown nowhere.
#[derive(Clone, Debug)]
pub struct Bearer(HeaderValue);

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it says first.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It is no address.
    #[error("that is no http or https address; it is not shown, for it may hold a secret")]
    Address,
    /// Nobody is there.
    #[error("{address} cannot be reached")]
    Unreached {
        /// Who was asked, without a path that could hold a secret.
        address: String,
        /// What the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It broke off, or was too large.
    #[error("the answer of {address} broke off")]
    BrokeOff {
        /// Who was asked.
        address: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not come in time.
    #[error("{address} did not answer within {within:?}")]
    Late {
        /// Who was asked.
        address: String,
        /// How long was waited.
        within: Duration,
    },
    /// It is not what was asked for.
    #[error("{address} answers {status}: {said}")]
    Refused {
        /// Who was asked.
        address: String,
        /// The status.
        status: StatusCode,
        /// The beginning of what it says.
        said: String,
    },
}

/// The largest answer, in bytes.
const MOST: usize = 16 * 1024 * 1024;

// === impl Http ===

impl Http {
    /// With the root certificates of this system; without any, only http can be asked.
    #[must_use]
    pub fn new() -> Self {
        let builder = HttpsConnectorBuilder::new();
        let builder = match builder.with_provider_and_native_roots(rustls_provider()) {
            Ok(builder) => builder,
            Err(failure) => {
                tracing::warn!(error = %failure, "no root certificates: https addresses cannot be verified, and are not asked");
                HttpsConnectorBuilder::new().with_tls_config(no_roots())
            }
        };
        // Colors come and go: a kept connection could be one that closes just as it is used.
        Self { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector(builder)), bearer: None }
    }

    /// The same, with this token in every question that brings none of its own.
    #[must_use]
    pub fn bearing(&self, token: Option<&Bearer>) -> Self {
        Self { client: self.client.clone(), bearer: token.cloned() }
    }

    /// For replicas over http, on connections that are kept between questions.
    #[must_use]
    pub fn keeping_connections() -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(no_roots());
        Self { client: Client::builder(TokioExecutor::new()).build(connector(builder)), bearer: None }
    }

    /// Asks, and reads the answer whole, whatever it says.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn ask(&self, mut request: Request<Full<Bytes>>, within: Duration) -> Result<Answer, HttpError> {
        if let Some(Bearer(token)) = &self.bearer {
            request.headers_mut().entry(header::AUTHORIZATION).or_insert_with(|| token.clone());
        }
        // Without what could stand before the host, or after it.
        let (host, port) = (request.uri().host().unwrap_or_default(), request.uri().port_u16());
        let address = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let asked = async {
            let answer = self.client.request(request).await;
            let answer =
                answer.map_err(|failure| HttpError::Unreached { address: address.clone(), source: Box::new(failure) })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MOST).collect().await;
            let body = body.map_err(|source| HttpError::BrokeOff { address: address.clone(), source })?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Late { address, within }),
        }
    }

    /// Gets a document; the caller judges the status.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn get(&self, address: &str, within: Duration) -> Result<Answer, HttpError> {
        self.ask(request(Method::GET, address, None)?, within).await
    }

    /// Sends JSON, or nothing; the caller judges the status.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn send(&self, method: Method, address: &str, body: Option<&Value>, within: Duration) -> Result<Answer, HttpError> {
        self.ask(request(method, address, body)?, within).await
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Bearer ===

impl FromStr for Bearer {
    type Err = &'static str;

    fn from_str(token: &str) -> Result<Self, Self::Err> {
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
        let mut value = value.ok_or("an access token is visible ASCII without spaces")?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

// === impl Answer ===

impl Answer {
    /// The body as JSON; `Null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The answer if it is a success, else what it says as an error.
    ///
    /// # Errors
    /// [`HttpError::Refused`].
    pub fn success(self, address: &str) -> Result<Self, HttpError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = self.text();
        let said = self.json()["error"].as_str().map_or_else(|| text.chars().take(200).collect(), str::to_owned);
        Err(HttpError::Refused { address: address.to_owned(), status: self.status, said })
    }
}

/// A request with JSON, or without anything.
///
/// # Errors
/// [`HttpError::Address`].
pub fn request(method: Method, address: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, HttpError> {
    let uri: Uri = address.parse().map_err(|_| HttpError::Address)?;
    let mut request = Request::builder().method(method).uri(uri);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    request.body(Full::new(body)).map_err(|_| HttpError::Address)
}

/// A text as a query carries it (RFC 3986, 2.3).
#[must_use]
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn connector(builder: HttpsConnectorBuilder<WantsSchemes>) -> HttpsConnector<HttpConnector> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(3)));
    builder.https_or_http().enable_http1().wrap_connector(connector)
}

fn rustls_provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn no_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(rustls_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_nowhere_and_is_one_word() {
        let http = Http::keeping_connections().bearing(Some(&"eyJ.secret".parse().unwrap()));
        assert!(!format!("{http:?}").contains("secret"));
        for wrong in ["", "two words", "a\nb", "ü"] {
            assert!(wrong.parse::<Bearer>().is_err(), "{wrong:?}");
        }
    }
}
