// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's rxe with its defects mended, for tests that need an RDMA device that does what it says.
//!
//! Its source comes from Debian's package of the kernel's source, of the very version of the kernel; the module takes the
//! place of the one in the image.

use std::{fs, path::Path};

use super::{
    cache::{Cache, Key},
    image::Overlay,
    kernel::Kernel,
    kmod, logged,
    progress::Step,
    root::{Access, Root},
};
use crate::error::{Doing, Error, Result};

/// Where the kernel keeps it, in its source and below its modules.
const FOLDER: &str = "drivers/infiniband/sw/rxe";

/// A line of the source, and what stands there instead.
struct Mend {
    file: &'static str,
    line: &'static str,
    instead: &'static str,
}

/// What is wrong, as found in Linux 7.3.4.
const MENDS: &[Mend] = &[
    // The copy to and from memory that is paged on demand began at the start of a page wherever it should have, and
    // took the same bytes again for every page.
    Mend {
        file: "rxe_odp.c",
        line: "user_va = kmap_local_page(page);",
        instead: "user_va = kmap_local_page(page) + offset;",
    },
    Mend {
        file: "rxe_odp.c",
        line: "length  -= bytes;",
        instead: "length  -= bytes; addr += bytes;",
    },
    // Addresses in requests were taken for those of the process, which a region may have called otherwise.
    Mend {
        file: "rxe_odp.c",
        line: "if (unlikely(length < 1))",
        instead: "iova += mr->umem->address - mr->ibmr.iova;\n\tif (unlikely(length < 1))",
    },
    Mend {
        file: "rxe_odp.c",
        line: "return (iova - ib_umem_start(umem_odp)) >> umem_odp->page_shift;",
        instead: "struct rxe_mr *mr = umem_odp->private;\n\n\
                  \tiova += mr->umem->address - mr->ibmr.iova;\n\
                  \treturn (iova - ib_umem_start(umem_odp)) >> umem_odp->page_shift;",
    },
    // A request may be acknowledged while it is being sent again. The sender has to go on after it then: left where it
    // was, it takes a queue in which that slot is the next free one to be empty, and never sends what is in it.
    Mend {
        file: "rxe_comp.c",
        line: "queue_advance_consumer(qp->sq.queue, QUEUE_TYPE_FROM_CLIENT);",
        instead: "if (qp->req.wqe_index == queue_get_consumer(qp->sq.queue, QUEUE_TYPE_FROM_CLIENT)) {\n\
                  \t\tqp->req.wqe_index = queue_next_index(qp->sq.queue, qp->req.wqe_index);\n\
                  \t\tqp->req.psn = (wqe->last_psn + 1) & BTH_PSN_MASK;\n\
                  \t\tqp->req.opcode = -1;\n\
                  \t}\n\
                  \tqueue_advance_consumer(qp->sq.queue, QUEUE_TYPE_FROM_CLIENT);",
    },
    // Such an acknowledgement counts: were it only noted, the loss of the next one would be the end of all sending,
    // since a sender to which everything is acknowledged does not try again.
    Mend { file: "rxe_comp.c", line: "if (wqe->state == wqe_state_pending &&", instead: "if (" },
];

/// Fetches the package, in which the folder is an archive in an archive, and unpacks that folder.
const UNPACK: &str = "set -eu; release=$1 folder=$2; cd /host/out\n\
    version=$(dpkg-query -W -f '${Version}' \"linux-headers-$release\")\n\
    name=linux-source-$(echo \"$release\" | cut -d. -f1,2)\n\
    apt-get -qq -o APT::Sandbox::User=root -o Dir::Cache=/tmp download \"$name=$version\"\n\
    dpkg-deb --fsys-tarfile \"$name\"_*.deb | tar -xO \"./usr/src/$name.tar.xz\" | xz -dc |\n\
        tar -x --strip-components=1 \"$name/$folder\"\n\
    rm \"$name\"_*.deb";

/// Builds the module for a kernel, or finds it; the file that puts it into the kernel's place in an image.
pub(super) fn build(cache: &Cache, root: &Root, kernel: &Kernel) -> Result<Overlay> {
    let key = Key::new("rxe", 1).text(&root.key()).text(&kernel.release).text(UNPACK);
    let lines = |key: Key, mend: &Mend| key.text(mend.file).text(mend.line).text(mend.instead);
    let key = MENDS.iter().fold(key, lines);
    let source = cache.get("rxe-source", &key, |at| {
        let step = Step::start(format!("fetching the source of rxe of {}", kernel.release));
        let inside = root.inside().mount(at, "out", Access::ReadWrite);
        let arguments = ["-c", UNPACK, "unpack-rxe", &kernel.release, FOLDER];
        let command = inside.command("/bin/sh", &arguments);
        logged::run(command, "fetching the source of the kernel", &cache.log("rxe"), &step)?;
        MENDS.iter().try_for_each(|mend| mend.apply(&at.join(FOLDER)))?;
        step.done();
        Ok(())
    })?;
    let modules = kmod::build(cache, root, kernel, "rdma_rxe", &source.join(FOLDER))?;
    let place = format!("/usr/lib/modules/{}/kernel/{FOLDER}/rdma_rxe.ko", kernel.release);
    modules.first().map_or_else(
        || Err(Error::unfit("rxe was not built", "Look at the log of its build.")),
        |module| Overlay::host(place, module),
    )
}

impl Mend {
    fn apply(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.file);
        let text = fs::read_to_string(&path).at("read", &path)?;
        let mended = self.mended(&text)?;
        fs::write(&path, mended).at("write", &path)
    }

    fn mended(&self, text: &str) -> Result<String> {
        match text.matches(self.line).count() {
            1 => Ok(text.replace(self.line, self.instead)),
            found => Err(Error::unfit(
                format!("{} has the line `{}` {found} times, not once", self.file, self.line),
                "The kernel is another one than the mend was written for: see whether it needs it.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_source_that_a_mend_was_written_for_is_mended() {
        let mend = Mend { file: "a.c", line: "x = 1;", instead: "x = 2;" };
        assert_eq!(mend.mended("int x;\nx = 1;\n").unwrap(), "int x;\nx = 2;\n");
        for other in ["int x;\n", "x = 1;\nx = 1;\n"] {
            let error = mend.mended(other).unwrap_err().to_string();
            assert!(error.contains("a.c") && error.contains("not once"), "{error}");
        }
    }
}
