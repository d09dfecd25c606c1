//! The dynamic configuration.

use serde_json::Value;

use super::status::known_cluster;
use crate::answer::Answer;
use crate::backend::Reply;
use crate::call::Call;

/// `GET /config`: the document with its keys in the order they are kept; 502 when there is none.
pub(super) async fn get(call: &Call) -> Result<Answer, Answer> {
    let none = |why: String| Answer::page(502, why);
    let cluster = known_cluster(call).await.map_err(none)?;
    match &cluster.config {
        Some(config) => Ok(Answer::json(200, &Value::Object(config.value.clone()))),
        None => Err(none("The cluster has no dynamic configuration yet".to_owned())),
    }
}

/// `PATCH /config`: answers with the document that results.
pub(super) async fn patch(mut call: Call) -> Result<Answer, Answer> {
    let patch = call.required_object().await?;
    let config = call.backend.patch_config(patch).await.map_err(refused)?;
    Ok(Answer::json(200, &Value::Object(config)))
}

/// `PUT /config`: answers with the document that was sent.
pub(super) async fn put(mut call: Call) -> Result<Answer, Answer> {
    let config = call.required_object().await?;
    call.backend.put_config(config.clone()).await.map_err(refused)?;
    Ok(Answer::json(200, &Value::Object(config)))
}

fn refused(reply: Reply) -> Answer {
    Answer::page(reply.code, reply.text)
}
