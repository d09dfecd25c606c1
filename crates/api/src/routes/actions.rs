//! Operations on the node and the cluster.

use jiff::Timestamp;

use crate::answer::Answer;
use crate::call::Call;
use crate::requests;

/// `POST /restart`
pub(super) async fn restart(mut call: Call) -> Result<Answer, Answer> {
    let body = call.optional_object().await?;
    let request = requests::restart(body, Timestamp::now(), call.backend.status().pause)?;
    Ok(call.backend.restart(request).await.into())
}

/// `POST /switchover` and `/failover`
pub(super) async fn failover(mut call: Call, switchover: bool) -> Result<Answer, Answer> {
    let body = call.required_object().await?;
    let request = requests::failover(&body, switchover, Timestamp::now(), call.backend.status().pause)?;
    Ok(call.backend.failover(request).await.into())
}

/// `POST /reinitialize`
pub(super) async fn reinitialize(mut call: Call) -> Result<Answer, Answer> {
    let body = call.optional_object().await?;
    Ok(call.backend.reinitialize(requests::reinitialize(&body)).await.into())
}
