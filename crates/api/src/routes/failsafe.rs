//! Going on without the store, by agreement of all members.

use http::HeaderName;
use serde_json::json;

use crate::answer::Answer;
use crate::call::Call;
use crate::requests;

/// `GET /failsafe`: names and `api_url`s of those that must agree; 502 where none are known.
pub(super) fn get(call: &Call) -> Result<Answer, Answer> {
    match call.backend.status().failsafe_members {
        members if !members.is_empty() => Ok(Answer::json(200, &json!(members))),
        _ => Err(Answer::page(502, "No failsafe topology is known")),
    }
}

/// `POST /failsafe`: the leader asks whether it may go on; the header `lsn` tells it how far this node is.
pub(super) async fn post(mut call: Call) -> Result<Answer, Answer> {
    if !call.backend.status().failsafe_enabled {
        return Err(Answer::page(502, "failsafe_mode is not enabled"));
    }
    let body = call.required_object().await?;
    let answer = call.backend.failsafe(requests::failsafe(body)?).await;
    let reply = Answer::from(answer.reply);
    Ok(match answer.lsn {
        Some(lsn) => reply.with_header(HeaderName::from_static("lsn"), lsn.0),
        None => reply,
    })
}
