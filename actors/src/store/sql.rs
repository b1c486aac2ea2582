//! SQL statements with values bound by position, prepared once and cached by diesel, for the tables whose columns
//! are known only from a model's declaration.

use diesel::connection::Connection;
use diesel::deserialize::QueryableByName;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::query_dsl::{LoadQuery, methods::ExecuteDsl};
use diesel::result::QueryResult;
use diesel::row::{Field, NamedRow, Row as Row_};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Nullable, Text, Untyped};
use diesel::sqlite::{Sqlite, SqliteConnection, SqliteType};
use diesel::{RunQueryDsl, deserialize};
use starling_schema::model::ColumnKind;
use starling_schema::value::Value;

/// One statement; `?` marks the places of its binds and occurs nowhere else in it.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    parts: Vec<String>,
}

/// A value for one `?`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bind<'a> {
    Bool(Option<bool>),
    Int(Option<i64>),
    Real(Option<f64>),
    Text(Option<&'a str>),
    Blob(Option<&'a [u8]>),
}

impl<'a> Bind<'a> {
    pub(crate) fn int(number: u64) -> Self {
        Self::Int(Some(to_sql(number)))
    }

    pub(crate) fn model(model: u16) -> Self {
        Self::Int(Some(i64::from(model)))
    }

    pub(crate) fn blob(bytes: &'a [u8]) -> Self {
        Self::Blob(Some(bytes))
    }

    /// The value for a column; `NULL` when the column cannot hold it.
    pub(crate) fn column(kind: ColumnKind, value: Option<&'a Value>) -> Self {
        match (kind, value) {
            (ColumnKind::Bool, Some(Value::Bool(value))) => Self::Bool(Some(*value)),
            (ColumnKind::Bool, _) => Self::Bool(None),
            (ColumnKind::Int, Some(Value::Int(value))) => Self::Int(Some(*value)),
            (ColumnKind::Int, _) => Self::Int(None),
            (ColumnKind::Real, Some(Value::Real(value))) => Self::Real(Some(*value)),
            (ColumnKind::Real, _) => Self::Real(None),
            (ColumnKind::Text, Some(Value::Text(value))) => Self::Text(Some(value)),
            (ColumnKind::Text, _) => Self::Text(None),
            (ColumnKind::Bytes, Some(Value::Bytes(value))) => Self::Blob(Some(value)),
            (ColumnKind::Id, Some(Value::Id(value))) => Self::Blob(Some(value.as_bytes())),
            (ColumnKind::Bytes | ColumnKind::Id, _) => Self::Blob(None),
        }
    }
}

/// A stream number as `SQLite` stores it. Numbers beyond 2^63 do not occur: a batch that claims one is refused.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One column of a row that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Cell {
    pub(crate) fn number(&self) -> u64 {
        if let Self::Int(number) = self { u64::try_from(*number).unwrap_or(0) } else { 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if let Self::Blob(bytes) = self { bytes } else { &[] }
    }

    /// The field value that a column of this kind holds.
    pub(crate) fn into_value(self, kind: ColumnKind) -> Option<Value> {
        match (kind, self) {
            (ColumnKind::Bool, Self::Int(value)) => Some(Value::Bool(value != 0)),
            (ColumnKind::Int, Self::Int(value)) => Some(Value::Int(value)),
            (ColumnKind::Real, Self::Real(value)) => Some(Value::Real(value)),
            (ColumnKind::Text, Self::Text(value)) => Some(Value::Text(value)),
            (ColumnKind::Bytes, Self::Blob(value)) => Some(Value::Bytes(value)),
            (ColumnKind::Id, Self::Blob(value)) => starling_schema::ids::RecordId::from_slice(&value).map(Value::Id),
            _ => None,
        }
    }
}

/// A row by position.
#[derive(Clone, Debug)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl QueryableByName<Sqlite> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> deserialize::Result<Self> {
        let mut cells = Vec::with_capacity(row.field_count());
        for at in 0..row.field_count() {
            let Some(field) = Row_::get(row, at) else { continue };
            cells.push(match field.value() {
                None => Cell::Null,
                Some(mut value) => match value.value_type() {
                    Some(SqliteType::Long | SqliteType::Integer | SqliteType::SmallInt) => Cell::Int(value.read_long()),
                    Some(SqliteType::Double | SqliteType::Float) => Cell::Real(value.read_double()),
                    Some(SqliteType::Text) => Cell::Text(value.read_text().to_owned()),
                    Some(SqliteType::Binary) => Cell::Blob(value.read_blob().to_vec()),
                    None => Cell::Null,
                },
            });
        }
        Ok(Self(cells))
    }
}

struct Bound<'a> {
    statement: &'a Statement,
    binds: &'a [Bind<'a>],
}

impl QueryFragment<Sqlite> for Bound<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        for (at, part) in self.statement.parts.iter().enumerate() {
            out.push_sql(part);
            match self.binds.get(at) {
                Some(Bind::Bool(value)) => out.push_bind_param::<Nullable<Bool>, _>(value)?,
                Some(Bind::Int(value)) => out.push_bind_param::<Nullable<BigInt>, _>(value)?,
                Some(Bind::Real(value)) => out.push_bind_param::<Nullable<Double>, _>(value)?,
                Some(Bind::Text(value)) => out.push_bind_param::<Nullable<Text>, _>(value)?,
                Some(Bind::Blob(value)) => out.push_bind_param::<Nullable<Binary>, _>(value)?,
                None => {}
            }
        }
        Ok(())
    }
}

impl QueryId for Bound<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Bound<'_> {
    type SqlType = Untyped;
}

impl<C> RunQueryDsl<C> for Bound<'_> {}

impl Statement {
    pub(crate) fn new(text: &str) -> Self {
        Self { parts: text.split('?').map(str::to_owned).collect() }
    }

    fn bound<'a>(&'a self, binds: &'a [Bind<'a>]) -> Bound<'a> {
        assert_eq!(self.parts.len(), binds.len() + 1, "one bind for every place in {:?}", self.parts);
        Bound { statement: self, binds }
    }

    /// Runs it and says how many rows it touched.
    pub(crate) fn execute(&self, connection: &mut SqliteConnection, binds: &[Bind<'_>]) -> QueryResult<usize> {
        ExecuteDsl::execute(self.bound(binds), connection)
    }

    /// All rows that it finds.
    pub(crate) fn rows(&self, connection: &mut SqliteConnection, binds: &[Bind<'_>]) -> QueryResult<Vec<Row>> {
        self.bound(binds).internal_load(connection)?.collect()
    }

    /// The first row that it finds.
    pub(crate) fn first(&self, connection: &mut SqliteConnection, binds: &[Bind<'_>]) -> QueryResult<Option<Row>> {
        self.bound(binds).internal_load(connection)?.next().transpose()
    }

    /// Hands over row by row until `take` says that it has enough.
    pub(crate) fn each(
        &self,
        connection: &mut SqliteConnection,
        binds: &[Bind<'_>],
        mut take: impl FnMut(Row) -> QueryResult<std::ops::ControlFlow<()>>,
    ) -> QueryResult<()> {
        for row in self.bound(binds).internal_load(connection)? {
            if take(row?)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Runs SQL without binds or results, `BEGIN` and the like.
pub(crate) fn run(connection: &mut SqliteConnection, text: &str) -> QueryResult<()> {
    diesel::connection::SimpleConnection::batch_execute(connection, text)
}

/// Reads within one read transaction, so that all of it is of one moment.
pub(crate) fn snapshot<T, E: From<diesel::result::Error>>(
    connection: &mut SqliteConnection,
    read: impl FnOnce(&mut SqliteConnection) -> Result<T, E>,
) -> Result<T, E> {
    connection.transaction(read)
}
