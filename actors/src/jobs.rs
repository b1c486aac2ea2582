//! What a transaction is asked to do: jobs that wait, how a group of them is run, and the answers they get.

use std::iter::Peekable;

use futures::channel::oneshot;
use starling_schema::change::{Batch, Write};
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::wire::SnapshotResponse;

use crate::comparison::Repair;
use crate::engine::{Effects, Engine, Sync};
use crate::planted::{self, Bug};
use crate::proto::backfill::Served;
use crate::proto::purge::Remains;
use crate::rig::Point;
use crate::store::ledger::Note;
use crate::transactions::{CommitError, Outcome, Receipt, StoreError};

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// A local commit, and who waits for it.
type Asked = (Vec<Write>, Reply<Result<Receipt, CommitError>>);

/// One thing to do within a transaction, and who waits for it.
pub(crate) enum Job {
    Commit(Vec<Write>, Reply<Result<Receipt, CommitError>>),
    Apply(Batch, Served, Reply<Result<Outcome, StoreError>>),
    Snapshot(Box<SnapshotResponse>, Watermarks, Reply<Result<(), StoreError>>),
    Keep(Vec<Note>, Reply<Result<(), StoreError>>),
    Prune(Vec<(Stream, u64)>, Reply<Result<usize, StoreError>>),
    Mend(Repair, Reply<Result<u64, StoreError>>),
    Purge(Vec<Remains>, Reply<Result<u64, StoreError>>),
    Flush,
}

impl Job {
    /// What we must not forget once we said it.
    pub(crate) fn sync(&self) -> Sync {
        match self {
            Self::Commit(..) if planted::is(Bug::CommitNotSynced) => Sync::Normal,
            Self::Commit(..) | Self::Keep(..) | Self::Flush => Sync::Full,
            Self::Apply(..) | Self::Snapshot(..) | Self::Prune(..) | Self::Mend(..) | Self::Purge(..) => Sync::Normal,
        }
    }
}

/// What a job answers once its transaction is committed; dropped when it is not.
type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// Runs jobs within one transaction; afterwards everybody has an answer. No effects: it was rolled back.
pub(crate) async fn transaction(
    mut engine: Engine,
    sync: Sync,
    jobs: Vec<Job>,
) -> (Engine, Result<Effects, StoreError>) {
    let mut effects = Effects::default();
    let mut answers: Vec<Answer> = Vec::new();
    let mut outcome = engine.begin(sync, jobs.len());
    let mut jobs = jobs.into_iter().peekable();
    if outcome.is_ok() {
        while let Some(job) = jobs.next() {
            outcome = step(&mut engine, job, &mut jobs, &mut effects, &mut answers).await;
            if outcome.is_err() {
                break;
            }
        }
        match outcome {
            Ok(()) => outcome = settle_down(&mut engine, sync, &effects).await,
            Err(_) => engine.rollback(),
        }
    }
    if let Err(error) = &outcome {
        tracing::error!(%error, "a transaction failed");
    }
    for job in jobs {
        answers.push(refusal(job));
    }
    if outcome.is_ok() {
        engine.reach(Point::BeforeAnswer);
    }
    for answer in answers {
        answer(outcome.clone());
    }
    (engine, outcome.map(|()| effects))
}

/// Commits. An empty transaction would sync nothing, and what came from peers before it would pass for durable: a full
/// one always writes something.
async fn settle_down(engine: &mut Engine, sync: Sync, effects: &Effects) -> Result<(), StoreError> {
    if sync == Sync::Full && effects.committed.is_empty() {
        let mark = engine.marks.iter().map(|(_, through)| through).fold(0, u64::wrapping_add).to_be_bytes().to_vec();
        engine.keep(&[Note::Setting("flushed", mark)]).inspect_err(|_| engine.rollback())?;
    }
    engine.seal(&effects.committed).await.inspect_err(|_| engine.rollback())?;
    engine.commit()
}

/// Makes local commits, together.
async fn commit(
    engine: &mut Engine,
    commits: Vec<Asked>,
    effects: &mut Effects,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    let (commits, replies): (Vec<_>, Vec<_>) = commits.into_iter().unzip();
    let mut outcome = Ok(());
    for (reply, result) in replies.into_iter().zip(engine.local(commits, effects).await) {
        if let Err(CommitError::Storage(error)) = &result {
            outcome = Err(error.clone());
        }
        answers.push(answer(reply, move |committed| {
            let committed = if planted::is(Bug::FailedCommitAnswered) { Ok(()) } else { committed };
            committed.map_err(CommitError::from).and(result)
        }));
    }
    outcome
}

/// Does one job, and with a commit those that follow it in `rest`. An error takes the whole transaction back.
async fn step(
    engine: &mut Engine,
    job: Job,
    rest: &mut Peekable<std::vec::IntoIter<Job>>,
    effects: &mut Effects,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    match job {
        Job::Commit(writes, reply) => {
            let mut commits = vec![(writes, reply)];
            while let Some(Job::Commit(writes, reply)) = rest.next_if(|job| matches!(job, Job::Commit(..))) {
                commits.push((writes, reply));
            }
            commit(engine, commits, effects, answers).await
        }
        Job::Apply(batch, served, reply) => {
            let result = engine.remote(batch, served, effects).await;
            settle(reply, result, answers)
        }
        Job::Snapshot(page, claim, reply) => {
            let result = engine.snapshot(*page, claim, effects).await;
            settle(reply, result, answers)
        }
        Job::Keep(notes, reply) => settle(reply, engine.keep(&notes), answers),
        Job::Prune(bounds, reply) => {
            let result = engine.prune(bounds).await;
            settle(reply, result, answers)
        }
        Job::Mend(repair, reply) => {
            let result = engine.mend(repair, effects).await;
            settle(reply, result, answers)
        }
        Job::Purge(records, reply) => {
            let result = engine.purge(records).await;
            settle(reply, result, answers)
        }
        Job::Flush => {
            engine.reach(Point::BeforeFlush);
            engine.release(effects).await
        }
    }
}

fn answer<T: 'static>(reply: Reply<T>, result: impl FnOnce(Result<(), StoreError>) -> T + 'static) -> Answer {
    Box::new(move |committed| {
        if reply.send(result(committed)).is_err() {
            tracing::debug!("nobody waits for this answer any more");
        }
    })
}

fn settle<T: 'static>(
    reply: Reply<Result<T, StoreError>>,
    result: Result<T, StoreError>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    let broken = result.as_ref().err().cloned();
    answers.push(answer(reply, move |committed| committed.and(result)));
    broken.map_or(Ok(()), Err)
}

/// The answer of a job that was not tried because its transaction failed before.
fn refusal(job: Job) -> Answer {
    let failed =
        |committed: Result<(), StoreError>| committed.err().unwrap_or_else(|| StoreError("not tried".to_owned()));
    match job {
        Job::Commit(_, reply) => answer(reply, move |committed| Err(failed(committed).into())),
        Job::Apply(_, _, reply) => answer(reply, move |committed| Err(failed(committed))),
        Job::Snapshot(_, _, reply) | Job::Keep(_, reply) => answer(reply, move |committed| Err(failed(committed))),
        Job::Prune(_, reply) => answer(reply, move |committed| Err(failed(committed))),
        Job::Mend(_, reply) | Job::Purge(_, reply) => answer(reply, move |committed| Err(failed(committed))),
        Job::Flush => Box::new(|_| ()),
    }
}
