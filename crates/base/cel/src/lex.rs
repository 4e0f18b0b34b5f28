//! Tokens.

use crate::{ast::Literal, error::Issue};

/// A token, and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) offset: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind {
    /// An identifier.
    Ident(String),
    /// An identifier between backticks, which only names a field.
    Quoted(String),
    /// A number, text, bytes, truth value or null. Integers are kept as text until their sign is known.
    Literal(Literal),
    Integer {
        digits: String,
        hex: bool,
    },
    /// An operator, bracket or the keyword `in`.
    Symbol(&'static str),
    End,
}

impl TokenKind {
    /// As messages show it.
    pub(crate) fn show(&self, source: &[char], offset: usize, end: usize) -> String {
        match self {
            TokenKind::End => "<EOF>".to_owned(),
            _ => source[offset..end.min(source.len())].iter().collect::<String>().trim_end().to_owned(),
        }
    }
}

/// Longest first.
const SYMBOLS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%", "=",
];

/// Splits an expression into tokens.
pub(crate) fn lex(source: &[char]) -> Result<Vec<Token>, Vec<Issue>> {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new(), issues: Vec::new() };
    lexer.run();
    if lexer.issues.is_empty() { Ok(lexer.tokens) } else { Err(lexer.issues) }
}

struct Lexer<'s> {
    source: &'s [char],
    at: usize,
    tokens: Vec<Token>,
    issues: Vec<Issue>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.source.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn run(&mut self) {
        while self.at < self.source.len() {
            let start = self.at;
            match self.peek(0) {
                ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.source.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                '0'..='9' => self.number(),
                '.' if self.peek(1).is_ascii_digit() => self.number(),
                '"' | '\'' => self.string(start, false, false),
                '`' => self.quoted(),
                c if c == '_' || c.is_ascii_alphabetic() => self.word(),
                _ => self.symbol(),
            }
        }
        self.push(TokenKind::End, self.source.len());
    }

    fn push(&mut self, kind: TokenKind, offset: usize) {
        self.tokens.push(Token { kind, offset });
    }

    fn unknown(&mut self, offset: usize) {
        let text: String =
            self.source[offset..self.at.max(offset + 1).min(self.source.len())].iter().collect();
        let text = text.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
        let message = format!("Syntax error: token recognition error at: '{text}'");
        self.issues.push(Issue { message, offset });
        self.at = self.at.max(offset + 1);
        if self.issues.len() > 100 {
            self.at = self.source.len();
        }
    }

    fn symbol(&mut self) {
        let starts = |symbol: &&&str| symbol.chars().enumerate().all(|(i, c)| self.peek(i) == c);
        match SYMBOLS.iter().find(starts) {
            Some(symbol) if *symbol != "=" => {
                self.push(TokenKind::Symbol(symbol), self.at);
                self.at += symbol.len();
            }
            _ => self.unknown(self.at),
        }
    }

    fn quoted(&mut self) {
        let start = self.at;
        self.at += 1;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
        let from = self.at;
        while allowed(self.peek(0)) {
            self.at += 1;
        }
        if self.peek(0) == '`' && self.at > from {
            let name = self.source[from..self.at].iter().collect();
            self.at += 1;
            self.push(TokenKind::Quoted(name), start);
        } else {
            self.at = start + 1;
            self.unknown(start);
        }
    }

    fn word(&mut self) {
        let start = self.at;
        let raw = |c: char| c == 'r' || c == 'R';
        let bytes = |c: char| c == 'b' || c == 'B';
        let quote = |c: char| c == '"' || c == '\'';
        let (a, b, c) = (self.peek(0), self.peek(1), self.peek(2));
        if (raw(a) || bytes(a)) && quote(b) {
            self.at += 1;
            return self.string(start, raw(a), bytes(a));
        }
        if bytes(a) && raw(b) && quote(c) {
            self.at += 2;
            return self.string(start, true, true);
        }
        while self.peek(0) == '_' || self.peek(0).is_ascii_alphanumeric() {
            self.at += 1;
        }
        let word: String = self.source[start..self.at].iter().collect();
        let kind = match word.as_str() {
            "true" => TokenKind::Literal(Literal::Bool(true)),
            "false" => TokenKind::Literal(Literal::Bool(false)),
            "null" => TokenKind::Literal(Literal::Null),
            "in" => TokenKind::Symbol("in"),
            _ => TokenKind::Ident(word),
        };
        self.push(kind, start);
    }

    fn digits(&mut self, hex: bool) -> String {
        let start = self.at;
        while self.peek(0).is_ascii_digit() || (hex && self.peek(0).is_ascii_hexdigit()) {
            self.at += 1;
        }
        self.source[start..self.at].iter().collect()
    }

    fn number(&mut self) {
        let start = self.at;
        if self.peek(0) == '0' && self.peek(1) == 'x' && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            let digits = self.digits(true);
            return self.integer(start, digits, true);
        }
        let digits = self.digits(false);
        let mut float = false;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            float = true;
            self.at += 1;
            self.digits(false);
        }
        let sign = usize::from(matches!(self.peek(1), '+' | '-'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
            float = true;
            self.at += 1 + sign;
            self.digits(false);
        }
        if !float {
            return self.integer(start, digits, false);
        }
        let text: String = self.source[start..self.at].iter().collect();
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => self.push(TokenKind::Literal(Literal::Double(value)), start),
            _ => self.issues.push(Issue { message: "invalid double literal".to_owned(), offset: start }),
        }
    }

    fn integer(&mut self, start: usize, digits: String, hex: bool) {
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            match u64::from_str_radix(&digits, if hex { 16 } else { 10 }) {
                Ok(value) => self.push(TokenKind::Literal(Literal::Uint(value)), start),
                Err(_) => {
                    self.issues.push(Issue { message: "invalid uint literal".to_owned(), offset: start });
                }
            }
        } else {
            self.push(TokenKind::Integer { digits, hex }, start);
        }
    }

    /// A string, whose quote is next.
    fn string(&mut self, start: usize, raw: bool, bytes: bool) {
        let quote = self.peek(0);
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if triple { 3 } else { 1 };
        let mut content = Content { bytes, text: String::new(), raw: Vec::new() };
        loop {
            if self.at >= self.source.len() {
                return self.unknown(start);
            }
            let c = self.peek(0);
            let closes = c == quote && (!triple || (self.peek(1) == quote && self.peek(2) == quote));
            if closes {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            if !triple && matches!(c, '\n' | '\r') {
                return self.unknown(start);
            }
            if c == '\\' && !raw {
                if !self.escape(&mut content) {
                    return self.unknown(start);
                }
            } else {
                self.at += 1;
                content.push(c);
            }
        }
        let literal = if bytes { Literal::Bytes(content.raw) } else { Literal::String(content.text) };
        self.push(TokenKind::Literal(literal), start);
    }

    /// An escape sequence; false when there is no such.
    fn escape(&mut self, content: &mut Content) -> bool {
        let c = self.peek(1);
        self.at += 2;
        let simple = match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => c,
            'x' | 'X' => return self.code(2, 16).is_some_and(|code| content.byte(code)),
            'u' if !content.bytes => return self.code(4, 16).is_some_and(|code| content.code(code)),
            'U' if !content.bytes => return self.code(8, 16).is_some_and(|code| content.code(code)),
            '0'..='3' => {
                self.at -= 1;
                return self.code(3, 8).is_some_and(|code| content.byte(code));
            }
            _ => return false,
        };
        content.push(simple);
        true
    }

    fn code(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let text: String = self.source.get(self.at..self.at + digits)?.iter().collect();
        self.at += digits;
        text.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(&text, radix).ok())?
    }
}

/// What a string is made of.
struct Content {
    bytes: bool,
    text: String,
    raw: Vec<u8>,
}

impl Content {
    fn push(&mut self, c: char) {
        if self.bytes {
            self.raw.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            self.text.push(c);
        }
    }

    fn code(&mut self, code: u32) -> bool {
        char::from_u32(code).is_some_and(|c| {
            self.push(c);
            true
        })
    }

    /// In bytes a byte, in text a character.
    fn byte(&mut self, code: u32) -> bool {
        if self.bytes {
            u8::try_from(code).is_ok_and(|byte| {
                self.raw.push(byte);
                true
            })
        } else {
            self.code(code)
        }
    }
}
