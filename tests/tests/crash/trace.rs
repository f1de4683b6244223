//! The output of `strace -f -xx -y`, as events in the order in which they were seen.

use std::collections::HashMap;

/// A system call, or a half of one that another thread's call interrupted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: String,
    /// The file or socket of its first argument.
    pub(crate) file: String,
    /// The bytes of all its strings, as far as strace shows them.
    pub(crate) bytes: Vec<u8>,
    /// What it returned.
    pub(crate) result: i64,
    /// Line on which it began.
    pub(crate) began: usize,
    /// Line on which it returned.
    pub(crate) ended: usize,
}

/// The calls that returned, by the line on which they did.
pub(crate) fn calls(text: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (line_number, line) in text.lines().enumerate() {
        let Some((process, rest)) = line.split_once(' ') else {
            continue;
        };
        // The time comes next.
        let Some((_, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(process, (line_number, start.into()));
            continue;
        }
        let resumed = rest
            .strip_prefix("<... ")
            .and_then(|rest| rest.split_once(" resumed>"));
        let (began, whole) = match resumed {
            None => (line_number, rest.into()),
            Some((_, end)) => match unfinished.remove(process) {
                Some((began, start)) => (began, start + end),
                None => continue,
            },
        };
        calls.extend(call(&whole).map(|call| Call {
            began,
            ended: line_number,
            ..call
        }));
    }
    calls
}

/// One call: `name(descriptor<file>, "bytes"...) = result`.
fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest
        .rsplit_once(") = ")
        .or(rest.rsplit_once(")  = "))
        .or_else(|| {
            // strace aligns results of short calls.
            rest.rsplit_once(" = ")
                .map(|(arguments, result)| (arguments.trim_end().trim_end_matches(')'), result))
        })?;
    let result = result.split([' ', '<']).next()?.parse().ok()?;
    let file = arguments
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    let strings = arguments.split('"').skip(1).step_by(2);
    Some(Call {
        name: name.into(),
        file: String::from_utf8_lossy(&unescaped(file.map_or("", |(file, _)| file))).into(),
        bytes: strings.flat_map(unescaped).collect(),
        result,
        began: 0,
        ended: 0,
    })
}

/// `\x41` is A; what is not escaped stands for itself.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let escaped = rest
            .strip_prefix("\\x")
            .and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.extend(character.to_string().bytes());
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_calls_are_put_together() {
        let text = "7  10:00:00.1 fdatasync(9<\\x2f\\x61> <unfinished ...>\n\
                    8  10:00:00.2 sendto(4<socket:[1]>, \"\\x40\\x02\", 2, MSG_NOSIGNAL, NULL, 0) = 2\n\
                    7  10:00:00.3 <... fdatasync resumed>) = 0\n\
                    8  10:00:00.4 read(5, 0x1, 2)          = -1 EAGAIN (Resource temporarily unavailable)\n";
        let calls = calls(text);
        let short: Vec<_> = calls
            .iter()
            .map(|call| {
                (
                    &call.name[..],
                    &call.file[..],
                    &call.bytes[..],
                    call.result,
                    call.began,
                    call.ended,
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                ("sendto", "socket:[1]", &[0x40, 2][..], 2, 1, 1),
                ("fdatasync", "/a", &[], 0, 0, 2),
                ("read", "", &[], -1, 3, 3),
            ]
        );
    }
}
