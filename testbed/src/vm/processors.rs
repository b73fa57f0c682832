// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The threads that run a machine's processors.

use serde_json::{Value, json};

use super::Vm;
use crate::error::{Error, Result};

impl Vm {
    /// The host's threads of its processors, in their order.
    ///
    /// # Errors
    /// When QEMU does not tell them.
    pub fn processor_threads(&self) -> Result<Vec<u32>> {
        let answer = self.monitor(|qmp| qmp.execute("query-cpus-fast", json!({})))?;
        ids(&answer).ok_or_else(|| Error::Unread {
            program: "QEMU's monitor".into(),
            what: "it does not tell a thread for each processor".into(),
            output: answer.to_string(),
        })
    }
}

fn ids(answer: &Value) -> Option<Vec<u32>> {
    let processors = answer.as_array().filter(|processors| !processors.is_empty())?;
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let both = |cpu: &Value| Some((number(&cpu["cpu-index"])?, number(&cpu["thread-id"])?));
    let mut threads = processors.iter().map(both).collect::<Option<Vec<_>>>()?;
    threads.sort_unstable();
    Some(threads.into_iter().map(|(_, thread)| thread).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_come_in_the_order_of_their_processors() {
        let processor =
            |index, thread| json!({ "cpu-index": index, "thread-id": thread, "props": {} });
        let answer = json!([processor(1, 4001), processor(0, 4002)]);
        assert_eq!(ids(&answer), Some(vec![4002, 4001]));
        for wrong in [json!([]), json!({}), json!([{ "cpu-index": 0 }])] {
            assert_eq!(ids(&wrong), None, "{wrong}");
        }
    }
}
