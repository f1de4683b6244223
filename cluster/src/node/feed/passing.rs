//! What a node that follows passes to its source beside asking for the next frame: who has come and gone, and what index
//! it waits for.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::peers::{AnswerBody, AskError, RequestBody, proto};
use super::SILENCE_MAX;
use super::follower::FeedEnded;

/// What the source is told beside what it is asked for, one message at a time: it carries out each request in a task of
/// its own, so that two at once could change places. The feed ends with one that was not carried out for sure.
#[derive(Default)]
pub(super) struct Passing(Option<BoxFuture<'static, Result<(), FeedEnded>>>);

impl Passing {
    /// Whether the next one may leave.
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Sends one, where there is one.
    pub(super) fn pass<A>(&mut self, attach: Option<proto::Attach>, ask: impl Fn(RequestBody) -> A)
    where
        A: Future<Output = Result<AnswerBody, AskError>> + Send + 'static,
    {
        let Some(attach) = attach else { return };
        let asked = tokio::time::timeout(SILENCE_MAX, ask(RequestBody::Attach(attach)));
        let passing = async move {
            match asked.await.map_err(|_| FeedEnded::Silent)?? {
                AnswerBody::Attached(_) => Ok(()),
                _ => Err(AskError::NotLeader.into()),
            }
        };
        self.0 = Some(passing.boxed());
    }

    /// Waits until what is on its way was carried out; for ever where there is nothing.
    pub(super) async fn passed(&mut self) -> Result<(), FeedEnded> {
        let Some(passing) = &mut self.0 else {
            return std::future::pending().await;
        };
        let passed = passing.await;
        self.0 = None;
        passed
    }
}
