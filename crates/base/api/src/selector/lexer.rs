//! Splits a label selector into words and signs.

/// A word or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key, a value or a keyword.
    Word(&'a str),
    /// `,`
    Comma,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `=`, `==`, `!=`, `<`, `>` or `!`; anything else made of these signs is an error for the parser.
    Sign(&'a str),
    /// The end.
    End,
}

impl Token<'_> {
    /// How messages call it.
    pub(super) fn text(&self) -> &str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::End => "",
        }
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

/// Reads tokens one by one.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        let start = self.at;
        let Some(first) = bytes.get(start) else { return Token::End };
        let single = match first {
            b',' => Some(Token::Comma),
            b'(' => Some(Token::Open),
            b')' => Some(Token::Close),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return token;
        }
        if is_special(*first) {
            // The longest of the known signs, as upstream's scanner finds it.
            let two = self.text.get(start..start + 2);
            let len = if matches!(two, Some("==" | "!=")) { 2 } else { 1 };
            self.at += len;
            return Token::Sign(&self.text[start..self.at]);
        }
        let rest = &bytes[start..];
        let ends = |b: &u8| is_special(*b) || matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        self.at = start + rest.iter().position(ends).unwrap_or(rest.len());
        Token::Word(&self.text[start..self.at])
    }
}
