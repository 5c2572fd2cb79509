//! Server-sent events, as a stream of bytes becomes them (the HTML standard, section 9.2.6).

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The last id that was set, which outlives the event that set it.
    pub id: Option<String>,
    /// The event's type; empty if it names none.
    pub event: String,
    pub data: String,
}

/// Takes bytes as they come, and gives events as they are whole.
#[derive(Debug, Default)]
pub struct Parser {
    pending: Vec<u8>,
    id: Option<String>,
    event: String,
    data: Option<String>,
}

/// No line of the daemon's comes near this.
const MAX_LINE: usize = 4 << 20;

impl Parser {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            messages.extend(self.line(line.trim_end_matches('\r')));
        }
        if self.pending.len() > MAX_LINE {
            self.pending.clear();
        }
        messages
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let data = self.data.take()?;
            return Some(Message { id: self.id.clone(), event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            // comments keep the connection alive; what is unknown is to be ignored
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: Option<&str>, event: &str, data: &str) -> Message {
        Message { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let stream =
            "id: 1\nevent: vm.started\ndata: {\"a\":\ndata: 1}\n\n: alive\n\r\ndata:x\r\n\r\n";
        let wanted = [message(Some("1"), "vm.started", "{\"a\":\n1}"), message(Some("1"), "", "x")];
        for size in [1, 3, 7, 100] {
            let mut parser = Parser::default();
            let got: Vec<_> =
                stream.as_bytes().chunks(size).flat_map(|bytes| parser.push(bytes)).collect();
            assert_eq!(got, wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_data_is_none_and_an_unfinished_one_waits() {
        let mut parser = Parser::default();
        assert!(parser.push(b"event: x\n\ndata: half").is_empty());
        assert_eq!(parser.push(b" done\n\n"), [message(None, "", "half done")]);
    }
}
