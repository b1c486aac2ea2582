//! Criterion benches of the parts that do no I/O: clock, merge, codec, watermarks.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use starling::proto::clock::HlcClock;
use starling::proto::merge;
use starling_schema::change::{Batch, Items, StateRow};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::Entry;
use starling_schema::record::SharedRecord;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::value::Fields;
use starling_schema::wire::{PageResponse, RESPONSE_BYTES_MAX, SyncEnvelope, SyncPayload};
use uuid::Uuid;

const PAGE_ROWS: u64 = 1_000;
const WALL_MS: u64 = 1_750_000_000_000;

fn device(n: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(n))
}

fn clock(c: &mut Criterion) {
    let mut ticking = HlcClock::new(device(1), 0);
    c.bench_function("clock tick", |b| b.iter(|| ticking.tick(black_box(WALL_MS))));
    let mut observing = HlcClock::new(device(1), 0);
    let remote = Hlc::at(WALL_MS, device(2));
    c.bench_function("clock observe", |b| b.iter(|| observing.observe(black_box(remote), WALL_MS)));
}

/// A record with eight fields, each written by `writer`.
fn record(writer: u128, at_ms: u64) -> SharedRecord {
    let fields = (1..=8).fold(Fields::new(), |fields, no| fields.with(no, i64::from(no)));
    merge::set(&SharedRecord::default(), fields)
        .map_or_else(SharedRecord::default, |op| op.into_delta(Hlc::at(at_ms, device(writer))))
}

fn join(c: &mut Criterion) {
    let base = record(1, WALL_MS);
    let edit =
        merge::set(&base, Fields::new().with(3, 33_i64)).map(|op| op.into_delta(Hlc::at(WALL_MS + 1, device(2))));
    let edit = edit.unwrap_or_default();
    let join_into = |base: &SharedRecord, delta: &SharedRecord| {
        let pair = (base.clone(), delta.clone());
        move || pair.clone()
    };
    c.bench_function("merge one field that saw the last", |b| {
        b.iter_batched(join_into(&base, &edit), |(mut base, edit)| merge::join(&mut base, edit), BatchSize::SmallInput);
    });
    let other = record(3, WALL_MS + 2);
    c.bench_function("merge eight concurrent fields", |b| {
        b.iter_batched(
            join_into(&base, &other),
            |(mut base, other)| merge::join(&mut base, other),
            BatchSize::SmallInput,
        );
    });
}

/// A page of entries as a peer serves it.
fn page() -> SyncEnvelope {
    let row = |version: u64| {
        let mut entry = Entry::new(RecordId(Uuid::from_u128(u128::from(version) << 64 | 0x1234_5678)));
        entry.location = Some(RecordId::derived("bench", &[b"location"]));
        entry.parent = Some(RecordId::derived("bench", &[&(version / 100).to_be_bytes()]));
        entry.name = Some(format!("IMG_{version:06}.jpg"));
        entry.kind = Some(0);
        entry.extension = Some("jpg".to_owned());
        entry.size = i64::try_from(version * 7_919 % 8_000_000).ok();
        entry.modified_at = i64::try_from(WALL_MS + version * 104_729 % 31_536_000_000).ok();
        entry.mode = Some(0o644);
        entry.inode = i64::try_from(13_000_000 + version).ok();
        StateRow { version, model: Entry::MODEL, record: entry.id, fields: Some(entry.fields()) }
    };
    let rows = (1..=PAGE_ROWS).map(row).collect();
    let batch = Batch { stream: Stream::state(device(1)), after: 0, through: PAGE_ROWS, items: Items::State(rows) };
    let page = PageResponse::Page { batch, head: PAGE_ROWS, floor: 0, clean: PAGE_ROWS };
    SyncEnvelope {
        library: LibraryId(Uuid::from_u128(9)),
        device: device(1),
        timestamp_ms: WALL_MS,
        payload: SyncPayload::page_response(StreamKind::State, page),
    }
}

fn codec(c: &mut Criterion) {
    let page = page();
    let Ok(bytes) = page.encode(RESPONSE_BYTES_MAX) else { return };
    let mut group = c.benchmark_group("page of 1,000 entries");
    group.throughput(Throughput::Elements(PAGE_ROWS));
    group.bench_function("encode", |b| b.iter(|| black_box(&page).encode(RESPONSE_BYTES_MAX)));
    group.bench_function("decode", |b| b.iter(|| SyncEnvelope::decode(black_box(&bytes))));
    group.finish();
}

fn watermarks(c: &mut Criterion) {
    let marks = |through: u64| -> Watermarks {
        let streams = |n| [Stream::state(device(n)), Stream::shared(device(n))];
        (0..100).flat_map(streams).map(|stream| (stream, through)).collect()
    };
    let (ours, theirs) = (marks(5), marks(6));
    c.bench_function("watermarks of 100 devices join", |b| {
        b.iter_batched(|| ours.clone(), |mut ours| ours.join(&theirs), BatchSize::SmallInput);
    });
}

criterion_group!(benches, clock, join, codec, watermarks);
criterion_main!(benches);
