//! Cutting bytes out of a 64-bit ELF file, least significant byte first. Addresses stay as they are: what is gone
//! leaves a hole between two segments, or nothing at all where it was never loaded.

use std::ops::Range;

/// Program header of what is loaded.
const PT_LOAD: u64 = 1;
/// Sections: of symbols that the loader looks up, and without bytes in the file.
const SHT_DYNSYM: u64 = 11;
const SHT_NOBITS: u64 = 8;
/// A section that is loaded.
const SHF_ALLOC: u64 = 2;
/// What a linker makes to be run: a program, a library.
const KINDS: [u64; 2] = [2, 3];
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
/// Symbols of one library that are looked at.
const MAX_SYMBOLS: usize = 1 << 20;
/// Sections of debug information of one file that are looked at: compilers make about a dozen.
const MAX_TURNS: usize = 32;
/// Sections begin at multiples of it, unless they are loaded.
const SECTION_ALIGN: usize = 64;

fn get(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(width)?)?;
    Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn put(bytes: &mut [u8], at: usize, width: usize, value: usize) -> Option<()> {
    let end = at.checked_add(width)?;
    bytes.get_mut(at..end)?.copy_from_slice((value as u64).to_le_bytes().get(..width)?);
    Some(())
}

#[derive(Clone, Debug)]
struct Segment {
    /// Where its header is.
    at: usize,
    loads: bool,
    bytes: Range<usize>,
    /// As large in memory as in the file.
    whole: bool,
    align: usize,
}

#[derive(Clone, Debug)]
struct Section {
    at: usize,
    name: Vec<u8>,
    kind: u64,
    loaded: bool,
    bytes: Range<usize>,
}

/// Where everything is.
struct Layout {
    segments: Vec<Segment>,
    sections: Vec<Section>,
    /// Tables of headers, and the file's own.
    tables: Vec<Range<usize>>,
    sections_at: usize,
}

/// A symbol with bytes of its own, and where the file says so.
pub(super) struct Symbol {
    at: usize,
    pub(super) bytes: Range<usize>,
}

fn range(bytes: &[u8], start: u64, len: u64) -> Option<Range<usize>> {
    let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
    let end = start.checked_add(len)?;
    (end <= bytes.len()).then_some(start..end)
}

impl Layout {
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..6)? != b"\x7fELF\x02\x01" || !KINDS.contains(&get(bytes, 16, 2)?) {
            return None;
        }
        let sizes = (get(bytes, 0x36, 2)? as usize, get(bytes, 0x3a, 2)? as usize);
        let (segments, sections) = (get(bytes, 0x38, 2)? as usize, get(bytes, 0x3c, 2)? as usize);
        if sizes.0 != PROGRAM_HEADER || (sections > 0 && sizes.1 != SECTION_HEADER) || segments == 0 {
            return None;
        }
        let segments_at = usize::try_from(get(bytes, 0x20, 8)?).ok()?;
        let sections_at = usize::try_from(get(bytes, 0x28, 8)?).ok()?;
        let tables = vec![
            0..FILE_HEADER,
            range(bytes, segments_at as u64, (segments * PROGRAM_HEADER) as u64)?,
            range(bytes, sections_at as u64, (sections * SECTION_HEADER) as u64)?,
        ];
        let segments = (0..segments).map(|at| Segment::read(bytes, segments_at + at * PROGRAM_HEADER));
        let segments: Vec<Segment> = segments.collect::<Option<_>>()?;
        let sections = (0..sections).map(|at| Section::read(bytes, sections_at + at * SECTION_HEADER));
        let mut sections: Vec<Section> = sections.collect::<Option<_>>()?;
        let names = sections.get(get(bytes, 0x3e, 2)? as usize).map(|section| section.bytes.clone());
        for section in &mut sections {
            let names = bytes.get(names.clone()?)?;
            let name = names.get(usize::try_from(get(bytes, section.at, 4)?).ok()?..)?;
            section.name = name.iter().take(256).take_while(|byte| **byte != 0).copied().collect();
        }
        // What was put behind it is found by its place: archives that unpack themselves, scripts with their interpreter.
        let ends = segments.iter().map(|segment| segment.bytes.end);
        let ends = ends.chain(sections.iter().map(|section| section.bytes.end));
        let end = ends.chain(tables.iter().map(|table| table.end)).max()?;
        (bytes.len() < end + SECTION_ALIGN).then_some(Self { segments, sections, tables, sections_at })
    }
}

impl Segment {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let len = get(bytes, at + 32, 8)?;
        Some(Self {
            at,
            loads: get(bytes, at, 4)? == PT_LOAD,
            bytes: range(bytes, get(bytes, at + 8, 8)?, len)?,
            whole: get(bytes, at + 40, 8)? == len,
            align: usize::try_from(get(bytes, at + 48, 8)?).ok()?.max(1),
        })
    }
}

impl Section {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let kind = get(bytes, at + 4, 4)?;
        let len = if kind == SHT_NOBITS { 0 } else { get(bytes, at + 32, 8)? };
        let start = if len == 0 { 0 } else { get(bytes, at + 24, 8)? };
        let loaded = get(bytes, at + 8, 8)? & SHF_ALLOC != 0;
        Some(Self { at, name: Vec::new(), kind, loaded, bytes: range(bytes, start, len)? })
    }
}

fn meet(left: &Range<usize>, right: &Range<usize>) -> bool {
    left.start < right.end && right.start < left.end
}

/// Where something is once these bytes are gone.
fn moved(at: usize, gone: &Range<usize>) -> usize {
    if at >= gone.end { at - gone.len() } else { at }
}

/// Take bytes out, and move what lies behind. Nobody may need what goes: the caller has looked.
fn cut(bytes: &[u8], layout: &Layout, gone: &Range<usize>) -> Option<Vec<u8>> {
    let mut rest = [bytes.get(..gone.start)?, bytes.get(gone.end..)?].concat();
    put(&mut rest, 0x28, 8, moved(layout.sections_at, gone))?;
    for segment in layout.segments.iter().filter(|segment| !segment.bytes.is_empty()) {
        let congruent = segment.bytes.start < gone.end || gone.len().is_multiple_of(segment.align);
        if segment.loads && !congruent {
            return None;
        }
        put(&mut rest, moved(segment.at, gone) + 8, 8, moved(segment.bytes.start, gone))?;
    }
    for section in &layout.sections {
        if !section.bytes.is_empty() {
            put(&mut rest, moved(section.at, gone) + 24, 8, moved(section.bytes.start, gone))?;
        }
    }
    Some(rest)
}

/// The same program or library without sections of debug information. Their names stay, without bytes.
pub(super) fn without_debug_information(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest: Option<Vec<u8>> = None;
    // Each turn takes one away; those that stay for a reason are passed.
    let mut passed = 0;
    for _ in 0..MAX_TURNS {
        let now = rest.as_deref().unwrap_or(bytes);
        let layout = Layout::read(now)?;
        let Some(section) = layout.sections.iter().filter(|section| debug(section)).nth(passed) else {
            break;
        };
        match without(now, &layout, section) {
            Some(less) => rest = Some(less),
            None => passed += 1,
        }
    }
    rest
}

fn debug(section: &Section) -> bool {
    let named =
        [&b".debug_"[..], b".zdebug_", b".gdb_index"].iter().any(|name| section.name.starts_with(name));
    named && !section.loaded && !section.bytes.is_empty()
}

fn without(bytes: &[u8], layout: &Layout, section: &Section) -> Option<Vec<u8>> {
    let behind =
        layout.segments.iter().filter(|segment| segment.loads && segment.bytes.start >= section.bytes.end);
    let align = behind.map(|segment| segment.align).max().unwrap_or(1).max(SECTION_ALIGN);
    let start = section.bytes.start.next_multiple_of(SECTION_ALIGN);
    let len = section.bytes.end.checked_sub(start)? / align * align;
    let gone = start..start + len;
    let others = layout.sections.iter().filter(|other| other.at != section.at).map(|other| &other.bytes);
    let mut needed = others.chain(layout.segments.iter().map(|segment| &segment.bytes)).chain(&layout.tables);
    if gone.is_empty() || needed.any(|needed| meet(needed, &section.bytes)) {
        return None;
    }
    let mut rest = cut(bytes, layout, &gone)?;
    let at = moved(section.at, &gone);
    put(&mut rest, at + 4, 4, SHT_NOBITS as usize)?;
    put(&mut rest, at + 32, 8, 0)?;
    Some(rest)
}

/// A symbol that others find in this library, by its name.
pub(super) fn symbol(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Option<Symbol> {
    let layout = Layout::read(bytes)?;
    let at = layout.sections.iter().position(|section| section.kind == SHT_DYNSYM)?;
    let symbols = &layout.sections[at];
    let names = layout.sections.get(usize::try_from(get(bytes, symbols.at + 40, 4)?).ok()?)?;
    let names = bytes.get(names.bytes.clone())?;
    for at in symbols.bytes.clone().step_by(SYMBOL).take(MAX_SYMBOLS) {
        let name = names.get(usize::try_from(get(bytes, at, 4)?).ok()?..)?;
        let name = name.get(..name.iter().take(64).position(|byte| *byte == 0).unwrap_or(0))?;
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let (address, len) = (get(bytes, at + 8, 8)?, get(bytes, at + 16, 8)?);
        if len == 0 || !wanted(name) {
            continue;
        }
        let found = layout.segments.iter().filter(|segment| segment.loads).find_map(|segment| {
            let start = get(bytes, segment.at + 16, 8)?;
            let place =
                range(bytes, address.checked_sub(start)?.checked_add(segment.bytes.start as u64)?, len)?;
            (segment.bytes.start <= place.start && place.end <= segment.bytes.end).then_some(place)
        });
        return found.map(|bytes| Symbol { at, bytes });
    }
    None
}

/// The same library with fewer bytes of a symbol that ends its segment.
pub(super) fn shrink(bytes: &[u8], symbol: &Symbol, content: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::read(bytes)?;
    let inside = |segment: &&Segment| segment.loads && meet(&segment.bytes, &symbol.bytes);
    let segment = layout.segments.iter().find(inside).filter(|segment| segment.whole)?;
    let end = segment.bytes.end;
    let behind = symbol.at + SYMBOL > symbol.bytes.start;
    // Behind it nothing is said.
    if bytes.get(symbol.bytes.end..end)?.iter().any(|byte| *byte != 0)
        || behind
        || content.len() > symbol.bytes.len()
    {
        return None;
    }
    let behind = layout.segments.iter().filter(|segment| segment.loads && segment.bytes.start >= end);
    let align = behind.map(|segment| segment.align).max().unwrap_or(1).max(SECTION_ALIGN);
    let len = end.checked_sub(symbol.bytes.start + content.len())? / align * align;
    let gone = end - len..end;
    let others = layout.segments.iter().filter(|other| other.at != segment.at).map(|other| &other.bytes);
    if gone.is_empty() || others.chain(&layout.tables).any(|other| meet(other, &gone)) {
        return None;
    }
    let mut rest = cut(bytes, &layout, &gone)?;
    rest.get_mut(symbol.bytes.start..gone.start)?.fill(0);
    rest.get_mut(symbol.bytes.start..symbol.bytes.start + content.len())?.copy_from_slice(content);
    put(&mut rest, symbol.at + 16, 8, content.len())?;
    for at in [32, 40] {
        put(&mut rest, moved(segment.at, &gone) + at, 8, gone.start - segment.bytes.start)?;
    }
    for section in layout.sections.iter().filter(|section| meet(&section.bytes, &gone)) {
        let at = moved(section.at, &gone);
        let kept = gone.start.saturating_sub(section.bytes.start);
        put(&mut rest, at + 24, 8, section.bytes.start.min(gone.start))?;
        put(&mut rest, at + 32, 8, kept)?;
        if kept == 0 {
            put(&mut rest, at + 4, 4, SHT_NOBITS as usize)?;
        }
    }
    Some(rest)
}
