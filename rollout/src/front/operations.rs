//! The door's own doors, for operators.
//!
//! | | |
//! |---|---|
//! | `GET /routing` | which color is live, where both are, what is in flight |
//! | `POST /live/{color}` | switches; when it answers, every new request goes there |
//! | `PUT /at/{color}` with `{"address": "127.0.0.1:3001"}` or `null` | says where a color is |
//! | `POST /hold`, `POST /release` | lets new requests wait, and go |

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bg_runtime::Color;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::switchboard::{Seen, Switchboard, SwitchboardError};

type Board = State<Arc<Switchboard>>;

pub(crate) async fn serve(socket: TcpListener, switchboard: Arc<Switchboard>) {
    let router = Router::new()
        .route("/routing", get(async |State(board): Board| Json(board.seen())))
        .route("/live/{color}", post(switch))
        .route("/at/{color}", put(place))
        .route("/hold", post(async |State(board): Board| Json(board.hold())))
        .route("/release", post(async |State(board): Board| Json(board.release())))
        .with_state(switchboard);
    // It ends with the door.
    let _ = axum::serve(socket, router).await;
}

async fn switch(State(board): Board, Path(color): Path<String>) -> Response {
    match color.parse::<Color>() {
        Ok(color) => answer(board.switch(color).await),
        Err(unknown) => refuse(StatusCode::BAD_REQUEST, &unknown.to_string()),
    }
}

#[derive(Deserialize)]
struct Place {
    address: Option<SocketAddr>,
}

async fn place(State(board): Board, Path(color): Path<String>, Json(place): Json<Place>) -> Response {
    match color.parse::<Color>() {
        Ok(color) => answer(board.place(color, place.address).await),
        Err(unknown) => refuse(StatusCode::BAD_REQUEST, &unknown.to_string()),
    }
}

fn answer(changed: Result<Seen, SwitchboardError>) -> Response {
    match changed {
        Ok(seen) => Json(seen).into_response(),
        Err(refused @ SwitchboardError::Nowhere(_)) => refuse(StatusCode::CONFLICT, &refused.to_string()),
        Err(failure) => {
            tracing::error!(error = %failure, "{failure}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())
        }
    }
}

fn refuse(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}
