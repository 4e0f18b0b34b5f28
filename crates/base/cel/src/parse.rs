//! From text to an expression: precedence climbing, within a bound of depth.

use crate::{
    ast::{Entry, Expr, Fold, Kind, Literal, Parsed, StructField},
    error::Issue,
    escape::reserved,
    lex::{self, Token, TokenKind},
    limits::{MAX_DEPTH, MAX_EXPRESSION_CHARACTERS, MAX_NESTING},
    macros,
};

/// Parses an expression.
pub(crate) fn parse(source: &str) -> std::result::Result<Parsed, Vec<Issue>> {
    let characters: Vec<char> = source.chars().collect();
    if characters.len() > MAX_EXPRESSION_CHARACTERS {
        let (size, limit) = (characters.len(), MAX_EXPRESSION_CHARACTERS);
        let message = format!("expression code point size exceeds limit: size: {size}, limit {limit}");
        return Err(vec![Issue { message, offset: 0 }]);
    }
    let tokens = lex::lex(&characters)?;
    let mut parser = Parser { source: &characters, tokens, at: 0, nodes: 0, depth: 0 };
    let root = parser.expr().map_err(|issue| vec![issue])?;
    if parser.kind() != &TokenKind::End {
        return Err(vec![parser.extraneous()]);
    }
    Ok(Parsed { root, nodes: parser.nodes })
}

/// A parse, or what is wrong.
pub(crate) type Result<T> = std::result::Result<T, Issue>;

/// The tokens an expression may begin with.
const EXPRESSION: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, \
                          STRING, BYTES, IDENTIFIER}";

pub(crate) struct Parser<'s> {
    source: &'s [char],
    tokens: Vec<Token>,
    at: usize,
    nodes: usize,
    depth: usize,
}

/// A binary operator's function and how strongly it binds.
fn operator(symbol: &str) -> Option<(&'static str, u8)> {
    Some(match symbol {
        "||" => ("_||_", 1),
        "&&" => ("_&&_", 2),
        "<" => ("_<_", 3),
        "<=" => ("_<=_", 3),
        ">" => ("_>_", 3),
        ">=" => ("_>=_", 3),
        "==" => ("_==_", 3),
        "!=" => ("_!=_", 3),
        "in" => ("@in", 3),
        "+" => ("_+_", 4),
        "-" => ("_-_", 4),
        "*" => ("_*_", 5),
        "/" => ("_/_", 5),
        "%" => ("_%_", 5),
        _ => return None,
    })
}

impl Parser<'_> {
    fn kind(&self) -> &TokenKind {
        self.tokens.get(self.at).map_or(&TokenKind::End, |token| &token.kind)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.source.len(), |token| token.offset)
    }

    fn shown(&self) -> String {
        let end = self.tokens.get(self.at + 1).map_or(self.source.len(), |token| token.offset);
        self.kind().show(self.source, self.offset(), end)
    }

    fn mismatched(&self, expecting: &str) -> Issue {
        let message = format!("Syntax error: mismatched input '{}' expecting {expecting}", self.shown());
        Issue { message, offset: self.offset() }
    }

    fn extraneous(&self) -> Issue {
        let message = format!("Syntax error: extraneous input '{}' expecting <EOF>", self.shown());
        Issue { message, offset: self.offset() }
    }

    /// Takes a symbol when it is next, and says where it was.
    fn take(&mut self, symbol: &str) -> Option<usize> {
        let offset = self.offset();
        (self.kind() == &TokenKind::Symbol(symbols(symbol))).then(|| {
            self.at += 1;
            offset
        })
    }

    fn expect(&mut self, symbol: &str) -> Result<usize> {
        match self.take(symbol) {
            Some(offset) => Ok(offset),
            None => Err(self.mismatched(&format!("'{symbol}'"))),
        }
    }

    /// Makes a node.
    pub(crate) fn node(&mut self, offset: usize, kind: Kind) -> Result<Expr> {
        let height = 1 + height_below(&kind);
        if height > MAX_DEPTH {
            return Err(too_deep(offset, MAX_DEPTH));
        }
        let id = self.nodes;
        self.nodes += 1;
        Ok(Expr { id, offset, height, kind })
    }

    /// Makes a call of a function.
    pub(crate) fn call(&mut self, offset: usize, function: &str, args: Vec<Expr>) -> Result<Expr> {
        self.node(offset, Kind::Call { function: function.to_owned(), target: None, args })
    }

    fn expr(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(too_deep(self.offset(), MAX_NESTING));
        }
        let condition = self.binary(1)?;
        let expr = match self.take("?") {
            Some(offset) => {
                let yes = self.binary(1)?;
                self.expect(":")?;
                let no = self.expr()?;
                self.call(offset, "_?_:_", vec![condition, yes, no])?
            }
            None => condition,
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn balance(
        &mut self,
        function: &str,
        terms: &mut [Option<Expr>],
        offsets: &[usize],
        low: usize,
        high: usize,
    ) -> Result<Expr> {
        let mid = (low + high).div_ceil(2);
        let mut term = |parser: &mut Self, at: usize, leaf: bool, low, high| match leaf {
            true => terms[at].take().ok_or_else(|| parser.extraneous()),
            false => parser.balance(function, terms, offsets, low, high),
        };
        let left = term(self, mid, mid == low, low, mid.saturating_sub(1))?;
        let right = term(self, mid + 1, mid == high, mid + 1, high)?;
        self.call(offsets[mid], function, vec![left, right])
    }

    fn binary(&mut self, least: u8) -> Result<Expr> {
        let mut left = self.unary()?;
        while let TokenKind::Symbol(symbol) = self.kind()
            && let Some((function, strength)) = operator(symbol)
            && strength >= least
        {
            let symbol = *symbol;
            let offset = self.offset();
            self.at += 1;
            let right = self.binary(strength + 1)?;
            left = match symbol {
                "||" | "&&" => self.logical(symbol, function, strength, [left, right], offset)?,
                _ => self.call(offset, function, vec![left, right])?,
            };
        }
        Ok(left)
    }

    /// What follows two terms of `||` or `&&`: all of them go into a balanced tree.
    fn logical(
        &mut self,
        symbol: &str,
        function: &str,
        strength: u8,
        terms: [Expr; 2],
        offset: usize,
    ) -> Result<Expr> {
        let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
        let mut offsets = vec![offset];
        while let Some(offset) = self.take(symbol) {
            offsets.push(offset);
            terms.push(Some(self.binary(strength + 1)?));
        }
        self.balance(function, &mut terms, &offsets, 0, offsets.len() - 1)
    }

    fn unary(&mut self) -> Result<Expr> {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let Some(offset) = self.take(symbol) else { continue };
            let mut count = 1;
            while self.take(symbol).is_some() {
                count += 1;
            }
            // The last minus is the sign of the number that follows.
            if symbol == "-" && self.negative_number() {
                count -= 1;
                let literal = self.literal(true)?;
                let operand = self.members(literal)?;
                return if count % 2 == 0 { Ok(operand) } else { self.call(offset, function, vec![operand]) };
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { self.call(offset, function, vec![operand]) };
        }
        self.member()
    }

    fn negative_number(&self) -> bool {
        matches!(self.kind(), TokenKind::Integer { .. } | TokenKind::Literal(Literal::Double(_)))
    }

    fn member(&mut self) -> Result<Expr> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut operand: Expr) -> Result<Expr> {
        loop {
            if let Some(offset) = self.take(".") {
                operand = self.select(operand, offset)?;
            } else if let Some(offset) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                operand = self.call(offset, function, vec![operand, index])?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn select(&mut self, operand: Expr, offset: usize) -> Result<Expr> {
        let optional = self.take("?").is_some();
        let (field, quoted) = match self.kind().clone() {
            TokenKind::Ident(name) => (name, false),
            TokenKind::Quoted(name) => (name, true),
            _ => return Err(self.mismatched("IDENTIFIER")),
        };
        self.at += 1;
        if optional {
            let literal = Kind::Literal(Literal::String(field));
            let field = self.node(offset, literal)?;
            return self.call(offset, "_?._", vec![operand, field]);
        }
        match self.take("(") {
            Some(offset) if !quoted => {
                let args = self.arguments()?;
                macros::member(self, offset, operand, field, args)
            }
            Some(offset) => Err(Issue { message: "Syntax error: extraneous input '('".to_owned(), offset }),
            None => self.node(offset, Kind::Select { operand: Box::new(operand), field, test_only: false }),
        }
    }

    /// Arguments, and the parenthesis behind them.
    fn arguments(&mut self) -> Result<Vec<Expr>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(")").is_some() {
                return Ok(args);
            }
            if self.take(",").is_none() {
                return Err(self.mismatched("{')', ','}"));
            }
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let offset = self.offset();
        match self.kind().clone() {
            TokenKind::Symbol("(") => {
                self.at += 1;
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("[") => self.list(),
            TokenKind::Symbol("{") => self.map(),
            TokenKind::Symbol(".") => {
                self.at += 1;
                self.identifier(offset, true)
            }
            TokenKind::Ident(_) => self.identifier(offset, false),
            TokenKind::Literal(_) | TokenKind::Integer { .. } => self.literal(false),
            _ => Err(self.mismatched(EXPRESSION)),
        }
    }

    fn literal(&mut self, negative: bool) -> Result<Expr> {
        let offset = self.offset();
        let literal = match self.kind().clone() {
            TokenKind::Literal(Literal::Double(value)) if negative => Literal::Double(-value),
            TokenKind::Literal(literal) => literal,
            TokenKind::Integer { digits, hex } => {
                let sign = if negative { "-" } else { "" };
                match i64::from_str_radix(&format!("{sign}{digits}"), if hex { 16 } else { 10 }) {
                    Ok(value) => Literal::Int(value),
                    Err(_) => return Err(Issue { message: "invalid int literal".to_owned(), offset }),
                }
            }
            _ => return Err(self.mismatched(EXPRESSION)),
        };
        self.at += 1;
        self.node(offset, Kind::Literal(literal))
    }

    fn identifier(&mut self, offset: usize, rooted: bool) -> Result<Expr> {
        let TokenKind::Ident(mut name) = self.kind().clone() else {
            return Err(self.mismatched("IDENTIFIER"));
        };
        if let Some(message) = self.message_name() {
            return message;
        }
        self.at += 1;
        if reserved(&name) {
            return Err(Issue { message: format!("reserved identifier: {name}"), offset });
        }
        if rooted {
            name.insert(0, '.');
        }
        match self.take("(") {
            Some(offset) => {
                let args = self.arguments()?;
                macros::global(self, offset, name, args)
            }
            None => self.node(offset, Kind::Ident(name)),
        }
    }

    /// `a.b.C{...}`: nothing when what follows is no message.
    fn message_name(&mut self) -> Option<Result<Expr>> {
        let mut name = String::new();
        let mut at = self.at;
        loop {
            let TokenKind::Ident(part) = &self.tokens.get(at)?.kind else { return None };
            name.push_str(part);
            match &self.tokens.get(at + 1)?.kind {
                TokenKind::Symbol("{") => break,
                TokenKind::Symbol(".") => name.push('.'),
                _ => return None,
            }
            at += 2;
        }
        self.at = at + 1;
        Some(self.message(name))
    }

    fn message(&mut self, name: String) -> Result<Expr> {
        let offset = self.expect("{")?;
        let mut fields = Vec::new();
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let name = match self.kind().clone() {
                TokenKind::Ident(name) | TokenKind::Quoted(name) => name,
                _ => return Err(self.mismatched("{'}', '?', IDENTIFIER}")),
            };
            self.at += 1;
            let offset = self.expect(":")?;
            let value = self.expr()?;
            fields.push(StructField { name, offset, value, optional });
            self.separator("}")?;
        }
        self.node(offset, Kind::Struct { name, fields })
    }

    /// A comma, unless the end is next.
    fn separator(&mut self, end: &str) -> Result<()> {
        if self.take(",").is_some() || self.kind() == &TokenKind::Symbol(symbols(end)) {
            return Ok(());
        }
        Err(self.mismatched(&format!("{{'{end}', ','}}")))
    }

    fn list(&mut self) -> Result<Expr> {
        let offset = self.expect("[")?;
        let mut items = Vec::new();
        while self.take("]").is_none() {
            let optional = self.take("?").is_some();
            items.push((self.expr()?, optional));
            self.separator("]")?;
        }
        self.node(offset, Kind::List { items })
    }

    fn map(&mut self) -> Result<Expr> {
        let offset = self.expect("{")?;
        let mut entries = Vec::new();
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            self.separator("}")?;
        }
        self.node(offset, Kind::Map { entries })
    }
}

fn too_deep(offset: usize, limit: usize) -> Issue {
    Issue { message: format!("expression recursion limit exceeded: {limit}"), offset }
}

/// The symbol as it lives in tokens.
fn symbols(symbol: &str) -> &'static str {
    const KNOWN: [&str; 14] = ["?", ":", "||", "&&", "!", "-", ".", "[", "]", "(", ")", ",", "{", "}"];
    KNOWN.into_iter().find(|known| *known == symbol).unwrap_or("")
}

fn height_below(kind: &Kind) -> usize {
    let highest =
        |children: &mut dyn Iterator<Item = &Expr>| children.map(|child| child.height).max().unwrap_or(0);
    match kind {
        Kind::Literal(_) | Kind::Ident(_) => 0,
        Kind::Select { operand, .. } => operand.height,
        Kind::Call { target, args, .. } => highest(&mut target.as_deref().into_iter().chain(args)),
        Kind::List { items } => highest(&mut items.iter().map(|(item, _)| item)),
        Kind::Map { entries } => highest(&mut entries.iter().flat_map(|entry| [&entry.key, &entry.value])),
        Kind::Struct { fields, .. } => highest(&mut fields.iter().map(|field| &field.value)),
        Kind::Fold(fold) => {
            let Fold { range, init, cond, step, result, .. } = &**fold;
            highest(&mut [range, init, cond, step, result].into_iter())
        }
    }
}
