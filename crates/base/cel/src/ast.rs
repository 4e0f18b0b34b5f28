//! Parsed expressions. Macros are expanded already; each node has a number, under which the checker keeps what it
//! finds.

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) id: usize,
    /// Characters from the beginning of the expression.
    pub(crate) offset: usize,
    /// Nodes from here to the deepest leaf.
    pub(crate) height: usize,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(String),
    Select { operand: Box<Expr>, field: String, test_only: bool },
    Call { function: String, target: Option<Box<Expr>>, args: Vec<Expr> },
    List { items: Vec<(Expr, bool)> },
    Map { entries: Vec<Entry> },
    Struct { name: String, fields: Vec<StructField> },
    Fold(Box<Fold>),
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// An entry of a map.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// A field of a message.
#[derive(Debug, Clone)]
pub(crate) struct StructField {
    pub(crate) name: String,
    pub(crate) offset: usize,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// A comprehension: what macros expand to.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub(crate) range: Expr,
    pub(crate) var: String,
    pub(crate) var2: Option<String>,
    pub(crate) accu: String,
    pub(crate) init: Expr,
    pub(crate) cond: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

impl Fold {
    /// Whether it is `cel.bind`: nothing to go over, and never again.
    pub(crate) fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List { items } if items.is_empty())
            && matches!(self.cond.kind, Kind::Literal(Literal::Bool(false)))
            && self.accu != ACCUMULATOR
    }
}

/// The accumulator of macros; no identifier that can be written.
pub(crate) const ACCUMULATOR: &str = "@result";

/// A parsed expression.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    /// Nodes have numbers below this.
    pub(crate) nodes: usize,
}

impl Expr {
    /// `a.b.c`, when it is nothing but that.
    pub(crate) fn qualified(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test_only: false } => {
                let mut name = operand.qualified()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }
}
