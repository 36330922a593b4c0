//! The platform's doors for operators, beside those of the front door.
//!
//! | | |
//! |---|---|
//! | `GET /platform` | the routing, what is meant to run, and what runs |
//! | `PUT /colors/{color}` with `{"image": {"name": …}, "replicas": 2, "epoch": 7}` | lets this run as a color |
//! | `DELETE /colors/{color}?epoch=7` | lets nothing run there; refused while traffic goes there |

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use bg_runtime::Color;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Platform;
use crate::{driver::Image, front::operations::refuse};

pub(crate) fn router(platform: Arc<Platform>) -> Router {
    Router::new().route("/platform", get(seen)).route("/colors/{color}", put(run).delete(stop)).with_state(platform)
}

async fn seen(State(platform): State<Arc<Platform>>) -> Json<Value> {
    let slot = |color: Color| {
        let replicas = platform.replicas(color);
        let slots = platform.slots();
        let slot = slots.get(color);
        json!({ "image": slot.image, "wanted": slot.wanted, "replicas": replicas, "processes": slot.processes,
            "trouble": slot.trouble })
    };
    Json(json!({ "routing": platform.switchboard.seen(), "blue": slot(Color::Blue), "green": slot(Color::Green) }))
}

#[derive(Deserialize)]
struct Wanted {
    image: Image,
    replicas: u32,
    epoch: Option<i64>,
}

async fn run(State(platform): State<Arc<Platform>>, Path(color): Path<Color>, Json(wanted): Json<Wanted>) -> Response {
    if let Err(refused) = is_current(&platform, wanted.epoch) {
        return refused;
    }
    platform.want(color, Some(wanted.image), wanted.replicas);
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Deserialize)]
struct Epoch {
    epoch: Option<i64>,
}

async fn stop(State(platform): State<Arc<Platform>>, Path(color): Path<Color>, Query(Epoch { epoch }): Query<Epoch>) -> Response {
    if let Err(refused) = is_current(&platform, epoch) {
        return refused;
    }
    if platform.switchboard.seen().routing.share(color) > 0 {
        return refuse(StatusCode::CONFLICT, &format!("traffic goes to {color}: switch first"));
    }
    platform.want(color, None, 0);
    StatusCode::NO_CONTENT.into_response()
}

/// A rollout that lost its lease changes nothing.
#[expect(clippy::result_large_err, reason = "it is sent at once")]
fn is_current(platform: &Platform, epoch: Option<i64>) -> Result<(), Response> {
    let Some(yours) = epoch else { return Ok(()) };
    let mut slots = platform.slots();
    let now = slots.epoch.max(platform.switchboard.seen().routing.epoch);
    if yours < now {
        let words = format!("a later rollout is at work (epoch {now}, yours is {yours})");
        return Err(refuse(StatusCode::CONFLICT, &words));
    }
    slots.epoch = yours;
    Ok(())
}
