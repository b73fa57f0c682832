// SPDX-License-Identifier: Apache-2.0 OR MIT
#include "chaos.h"
bool overcommit_run(void) { return false; }
