//! The platform's doors for operators, beside those of the front door.
//!
//! | | |
//! |---|---|
//! | `GET /platform` | the routing, what is meant to run, and what runs |
//! | `PUT /colors/{color}` with `{"image": {"name": …}, "replicas": 2, "epoch": 7}` | lets this run as a color; refused while traffic goes to something else there |
//! | `DELETE /colors/{color}?epoch=7` | lets nothing run there; refused while traffic goes there |
//!
//! All of them need the secret of the front door's operators: who may `PUT /colors` runs any program as this account.

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
use crate::{driver::Image, front::operations::answer};

pub(crate) fn router(platform: Arc<Platform>) -> Router {
    Router::new().route("/platform", get(seen)).route("/colors/{color}", put(run).delete(stop)).with_state(platform)
}

async fn seen(State(platform): State<Arc<Platform>>) -> Json<Value> {
    let slot = |color: Color| {
        let replicas = platform.replicas(color);
        let slots = platform.slots();
        let slot = slots.get(color);
        // Somebody may look who may not know what the image was told.
        let image = slot.image.clone().map(|image| image.keyed(&platform.key).hidden());
        json!({ "image": image, "wanted": slot.wanted, "replicas": replicas, "processes": slot.processes,
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
    let same = platform.slots().get(color).image.as_ref() == Some(&wanted.image);
    if same {
        // More or fewer of what runs there, which traffic may go to.
        return match wanted.epoch {
            Some(epoch) => match platform.switchboard.fence(epoch).await {
                Ok(_) => want(&platform, color, wanted),
                refused => answer(refused),
            },
            None => want(&platform, color, wanted),
        };
    }
    let epoch = wanted.epoch;
    let replaced = platform.switchboard.replace(color, epoch, || platform.want(color, Some(wanted.image), wanted.replicas)).await;
    answer(replaced)
}

fn want(platform: &Platform, color: Color, wanted: Wanted) -> Response {
    platform.want(color, Some(wanted.image), wanted.replicas);
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Deserialize)]
struct Epoch {
    epoch: Option<i64>,
}

async fn stop(State(platform): State<Arc<Platform>>, Path(color): Path<Color>, Query(Epoch { epoch }): Query<Epoch>) -> Response {
    answer(platform.switchboard.replace(color, epoch, || platform.want(color, None, 0)).await)
}
