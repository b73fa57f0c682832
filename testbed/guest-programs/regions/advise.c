// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Memory that comes before it is used: ibv_advise_mr. */
#include "regions.h"

#define PAGES 256ul
#define BYTES (PAGES * PAGE)
#define FLUSH IBV_ADVISE_MR_FLAG_FLUSH
#define READ IBV_ADVISE_MR_ADVICE_PREFETCH
#define WRITE IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE
#define NO_FAULT IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT

/* Advice that is too much for a context to have under way. */
#define MANY 200

static struct ibv_mr *region(void *at, size_t bytes, int access)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, at, bytes, access);

	CHECK(mr, "ibv_reg_mr: %m");
	return mr;
}

static int advice(enum ibv_advise_mr_advice what, uint32_t flags, uint64_t at, uint32_t bytes,
		  uint32_t lkey)
{
	struct ibv_sge sge = { .addr = at, .length = bytes, .lkey = lkey };

	return ibv_advise_mr(pd, what, flags, &sge, 1);
}

static void taken(enum ibv_advise_mr_advice what, uint32_t flags, uint64_t at, uint32_t bytes,
		  uint32_t lkey)
{
	CHECK(!(errno = advice(what, flags, at, bytes, lkey)), "ibv_advise_mr: %m");
}

static void refused(int error, enum ibv_advise_mr_advice what, uint32_t flags, uint64_t at,
		    uint32_t bytes, uint32_t lkey)
{
	errno = advice(what, flags, at, bytes, lkey);
	CHECK(errno == error, "ibv_advise_mr of %u bytes at %#lx: %m", bytes, at);
}

static void gone(struct ibv_mr *mr)
{
	CHECK(!(errno = ibv_dereg_mr(mr)), "ibv_dereg_mr: %m");
}

/* Waits until so many pages are there. */
static void comes(const void *at, size_t bytes, size_t pages)
{
	size_t here;

	/* The test that waits for this program has a time limit. */
	while ((here = resident(at, bytes)) < pages)
		usleep(1000);
	CHECK(here == pages, "%zu pages in place of %zu", here, pages);
}

static void comes_as_advised(void)
{
	unsigned char *at = fresh(BYTES, PROT_READ | PROT_WRITE);
	struct ibv_mr *mr = region(at, BYTES, ALL | IBV_ACCESS_ON_DEMAND);
	uint64_t base = (uintptr_t)at;
	struct ibv_sge list[3] = {
		{ .addr = base + 200 * PAGE, .length = PAGE, .lkey = mr->lkey },
		{ .addr = base + 210 * PAGE, .length = 0, .lkey = mr->lkey },
		{ .addr = base + 220 * PAGE, .length = 2 * PAGE, .lkey = mr->lkey },
	};

	/* Only what is there, which is nothing. */
	taken(NO_FAULT, FLUSH, base, BYTES, mr->lkey);
	taken(NO_FAULT, 0, base, BYTES, mr->lkey);
	CHECK(!resident(at, BYTES), "pages have come");
	/* From the middle of one page to the middle of another. */
	taken(WRITE, FLUSH, base + 10 * PAGE + 5, 3 * PAGE, mr->lkey);
	CHECK(resident(at + 10 * PAGE, 4 * PAGE) == 4, "not all pages have come");
	CHECK(resident(at, BYTES) == 4, "more pages have come");
	taken(READ, FLUSH, base + 30 * PAGE, PAGE, mr->lkey);
	CHECK(resident(at, BYTES) == 5, "the page to read has not come");
	taken(WRITE, 0, base + 100 * PAGE, 50 * PAGE, mr->lkey);
	comes(at, BYTES, 55);
	CHECK(!(errno = ibv_advise_mr(pd, WRITE, FLUSH, list, 3)), "a list: %m");
	CHECK(resident(at, BYTES) == 58, "not all of the list has come");
	/* More at a time than may be under way, a page each. */
	for (int i = 0; i < MANY; i++)
		taken(WRITE, 0, base + i % PAGES * PAGE, 1, mr->lkey);
	comes(at, MANY * PAGE, MANY);
	gone(mr);
}

static void goes_with_the_region(void)
{
	unsigned char *at = fresh(BYTES, PROT_READ | PROT_WRITE);
	unsigned char *elsewhere = fresh(BYTES, PROT_READ | PROT_WRITE);
	uint64_t iova = 0x40000000;
	struct ibv_mr *mr = ibv_reg_mr_iova(pd, at, BYTES, iova, ALL);

	CHECK(mr, "ibv_reg_mr_iova: %m");
	/* By the address that requests use. */
	taken(WRITE, FLUSH, iova + 3 * PAGE, 2 * PAGE, mr->lkey);
	CHECK(resident(at, BYTES) == 2 && resident(at + 3 * PAGE, 2 * PAGE) == 2, "elsewhere");
	refused(EFAULT, WRITE, FLUSH, (uintptr_t)at, PAGE, mr->lkey);
	CHECK(!ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, elsewhere, BYTES, 0),
	      "ibv_rereg_mr: %m");
	refused(EFAULT, WRITE, FLUSH, iova, PAGE, mr->lkey);
	taken(WRITE, FLUSH, (uintptr_t)elsewhere, PAGE, mr->lkey);
	CHECK(resident(elsewhere, BYTES) == 1 && resident(at, BYTES) == 2, "the old window");
	gone(mr);
}

static void is_refused(void)
{
	unsigned char *at = fresh(BYTES, PROT_READ | PROT_WRITE);
	unsigned char *constant = fresh(BYTES, PROT_READ);
	struct ibv_mr *mr = region(at, BYTES, ALL), *strict = region(at, BYTES, 0);
	struct ibv_mr *no_write = region(constant, BYTES, ALL);
	struct ibv_pd *other = ibv_alloc_pd(context);
	struct ibv_mr *foreign = other ? ibv_reg_mr(other, at, BYTES, ALL) : NULL;
	uint64_t base = (uintptr_t)at;
	uint32_t unknown = 0;

	CHECK(foreign, "ibv_reg_mr: %m");
	while (unknown == mr->lkey || unknown == strict->lkey || unknown == foreign->lkey)
		unknown++;
	for (int flush = 0; flush < 2; flush++) {
		uint32_t flags = flush ? FLUSH : 0;

		refused(ENOENT, READ, flags, base, PAGE, unknown);
		refused(EPERM, READ, flags, base, PAGE, foreign->lkey);
		refused(EPERM, WRITE, flags, base, PAGE, strict->lkey);
		refused(EFAULT, READ, flags, base - 1, 1, mr->lkey);
		refused(EFAULT, READ, flags, base, BYTES + 1, mr->lkey);
		refused(EFAULT, READ, flags, base + BYTES, 1, mr->lkey);
		refused(EFAULT, READ, flags, ~0ul, UINT32_MAX, mr->lkey);
		refused(EOPNOTSUPP, 77, flags, base, PAGE, mr->lkey);
	}
	refused(EINVAL, READ, 1 << 5, base, PAGE, mr->lkey);
	CHECK(!resident(at, BYTES), "pages have come");
	taken(READ, FLUSH, base, PAGE, strict->lkey);
	/* What the page tables do not allow, nobody is told unless he waits for it. */
	refused(EFAULT, WRITE, FLUSH, (uintptr_t)constant, PAGE, no_write->lkey);
	taken(READ, FLUSH, (uintptr_t)constant, PAGE, no_write->lkey);
	CHECK(!munmap(at + 8 * PAGE, PAGE), "munmap: %m");
	refused(EFAULT, WRITE, FLUSH, base + 6 * PAGE, 4 * PAGE, mr->lkey);
	CHECK(resident(at + 6 * PAGE, 2 * PAGE) == 2, "nothing before the hole has come");
	taken(WRITE, 0, base + 6 * PAGE, 4 * PAGE, mr->lkey);
	gone(foreign);
	CHECK(!(errno = ibv_dealloc_pd(other)), "ibv_dealloc_pd: %m");
	gone(no_write);
	gone(strict);
	gone(mr);
}

/* advise: pages come, as far as they were asked for. */
void advise(void)
{
	comes_as_advised();
	goes_with_the_region();
	is_refused();
}

/* A WRITE from and to memory that was never touched; advised, if it was. */
static void write_to_fresh(int advised)
{
	unsigned char *from = fresh(BYTES, PROT_READ | PROT_WRITE);
	unsigned char *to = fresh(BYTES, PROT_READ | PROT_WRITE);
	struct ibv_mr *from_mr = region(from, BYTES, 0), *to_mr = region(to, BYTES, ALL);

	if (advised) {
		taken(READ, FLUSH, (uintptr_t)from, BYTES, from_mr->lkey);
		taken(WRITE, FLUSH, (uintptr_t)to, BYTES, to_mr->lkey);
	}
	writes(pd, from_mr, BYTES, (uintptr_t)to, to_mr->rkey);
	gone(to_mr);
	gone(from_mr);
}

/* advised-write: the device misses nothing. */
void advised_write(void)
{
	write_to_fresh(1);
}

/* unadvised-write: the same, but it does. */
void unadvised_write(void)
{
	write_to_fresh(0);
}

/* advise-and-go: ends while advice about much memory is under way. */
void advise_and_go(void)
{
	size_t bytes = 64ul << 30;
	unsigned char *at = fresh(bytes, PROT_READ);
	struct ibv_mr *mr = region(at, bytes, 0);

	/* Only to read, so that it takes page tables and no pages. */
	for (int i = 0; i < 12; i++)
		taken(READ, 0, (uintptr_t)at + (uint64_t)i * (1ul << 32), UINT32_MAX, mr->lkey);
	_exit(0);
}
