//! The door's own doors, for operators.
//!
//! | | |
//! |---|---|
//! | `GET /routing` | what share goes to which color, where both are, what is in flight |
//! | `POST /live/{color}` | switches; when it answers, every new request goes there |
//! | `PUT /share` with `{"greenPercent": 10}` | lets this many of a hundred requests go to green |
//! | `PUT /at/{color}` with `{"addresses": ["127.0.0.1:3001"]}` | says where a color is |
//! | `POST /fence` | lets no smaller epoch move anything any more |
//! | `POST /hold`, `POST /release` | lets new requests wait, and go |
//!
//! All but `GET /routing` need the secret that is in a file beside the routing, as `Authorization: Bearer SECRET`: other accounts of
//! this machine reach the port, too.
//! What moves the traffic takes `epoch` (in the query, or in the body): a smaller one than the last is refused with 409.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bg_runtime::{Color, Secret, operators};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::switchboard::{Seen, Switchboard, SwitchboardError};
use crate::operator_secret;

type Board = State<Arc<Switchboard>>;

/// The doors, for whoever listens.
pub(crate) fn router(switchboard: Arc<Switchboard>) -> Router {
    Router::new()
        .route("/routing", get(async |State(board): Board| Json(board.seen())))
        .route("/live/{color}", post(switch))
        .route("/share", put(share))
        .route("/fence", post(fence))
        .route("/at/{color}", put(place))
        .route("/hold", post(async |State(board): Board| Json(board.hold())))
        .route("/release", post(async |State(board): Board| Json(board.release())))
        .with_state(switchboard)
}

pub(crate) async fn serve(socket: TcpListener, router: Router, secret: Secret) {
    let router = router.layer(axum::middleware::from_fn_with_state(Arc::new(secret), for_operators));
    // It ends with the door.
    let _ = axum::serve(socket, router).await;
}

/// Refuses pages in the operator's browser, and whoever does not bring the secret.
async fn for_operators(State(secret): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = operators::check(request.method(), request.uri(), request.headers(), &[]) {
        return refuse(StatusCode::FORBIDDEN, &refusal.to_string());
    }
    let is_open = request.method() == Method::GET && request.uri().path() == "/routing";
    if !is_open && !operator_secret::allows(request.headers(), &secret) {
        let message = "this needs the secret in front.secret, beside the routing: Authorization: Bearer SECRET";
        let mut refusal = refuse(StatusCode::UNAUTHORIZED, message);
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refusal;
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Epoch {
    epoch: Option<i64>,
}

async fn switch(State(board): Board, Path(color): Path<String>, Query(Epoch { epoch }): Query<Epoch>) -> Response {
    match color.parse::<Color>() {
        Ok(color) => answer(board.switch(color, epoch).await),
        Err(unknown) => refuse(StatusCode::BAD_REQUEST, &unknown.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Share {
    green_percent: u8,
    epoch: Option<i64>,
}

async fn fence(State(board): Board, Query(Epoch { epoch }): Query<Epoch>) -> Response {
    match epoch {
        Some(epoch) => answer(board.fence(epoch).await),
        None => refuse(StatusCode::BAD_REQUEST, "say which epoch"),
    }
}

async fn share(State(board): Board, Json(share): Json<Share>) -> Response {
    answer(board.shift(share.green_percent, share.epoch).await)
}

#[derive(Deserialize)]
struct Place {
    addresses: Vec<SocketAddr>,
}

async fn place(State(board): Board, Path(color): Path<String>, Json(place): Json<Place>) -> Response {
    match color.parse::<Color>() {
        Ok(color) => answer(board.place(color, place.addresses).await),
        Err(unknown) => refuse(StatusCode::BAD_REQUEST, &unknown.to_string()),
    }
}

pub(crate) fn answer(changed: Result<Seen, SwitchboardError>) -> Response {
    match changed {
        Ok(seen) => Json(seen).into_response(),
        Err(refused @ (SwitchboardError::Nowhere(_) | SwitchboardError::Late { .. } | SwitchboardError::Busy { .. })) => {
            refuse(StatusCode::CONFLICT, &refused.to_string())
        }
        Err(refused @ (SwitchboardError::Share(_) | SwitchboardError::Epoch(_))) => {
            refuse(StatusCode::BAD_REQUEST, &refused.to_string())
        }
        Err(failure) => {
            tracing::error!(error = %failure, "{failure}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())
        }
    }
}

pub(crate) fn refuse(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}
