// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Regions that change: ibv_rereg_mr. */
#include "regions.h"

#define BYTES 50000

static struct ibv_mr *mr, *from;
static unsigned char *buffer[2];

/* A WRITE to `at`, which must end with `wanted`. */
static void ends_with(struct ibv_pd *domain, uint64_t at, int wanted)
{
	int status;

	/* The source is of the domain, too. */
	struct ibv_mr *own = ibv_reg_mr(domain, from->addr, BYTES, 0);

	CHECK(own, "ibv_reg_mr: %m");
	status = write_once(domain, own->addr, own->lkey, BYTES, at, mr->rkey);
	CHECK(status == wanted, "%s, not %s", ibv_wc_status_str(status), ibv_wc_status_str(wanted));
	CHECK(!(errno = ibv_dereg_mr(own)), "ibv_dereg_mr: %m");
}

static size_t count_of(const unsigned char *at, unsigned char value)
{
	size_t count = 0;

	for (size_t i = 0; i < BYTES; i++)
		count += at[i] == value;
	return count;
}

static void rereg(int flags, struct ibv_pd *domain, void *at, size_t bytes, int access, int wanted)
{
	uint32_t key = mr->rkey;
	int outcome = ibv_rereg_mr(mr, flags, domain, at, bytes, access);

	CHECK(outcome == wanted, "ibv_rereg_mr: %d, not %d: %m", outcome, wanted);
	CHECK(mr->rkey == key && mr->lkey == key, "the key has changed");
}

/* change: each property alone, all together, and changes that are refused. */
void change(void)
{
	const int translation = IBV_REREG_MR_CHANGE_TRANSLATION, domain = IBV_REREG_MR_CHANGE_PD,
		  access = IBV_REREG_MR_CHANGE_ACCESS, refused = IBV_REREG_MR_ERR_CMD;
	struct ibv_pd *other = ibv_alloc_pd(context);
	uint64_t at[2];

	CHECK(other, "ibv_alloc_pd: %m");
	for (int i = 0; i < 2; i++) {
		buffer[i] = fresh(BYTES, PROT_READ | PROT_WRITE);
		at[i] = (uintptr_t)buffer[i];
	}
	from = ibv_reg_mr(pd, fresh(BYTES, PROT_READ | PROT_WRITE), BYTES, IBV_ACCESS_LOCAL_WRITE);
	mr = ibv_reg_mr(pd, buffer[0], BYTES, ALL);
	CHECK(from && mr, "ibv_reg_mr: %m");
	memset(from->addr, 1, BYTES);
	ends_with(pd, at[0], IBV_WC_SUCCESS);
	CHECK(count_of(buffer[0], 1) == BYTES, "not written");

	/* Elsewhere. */
	rereg(translation, NULL, buffer[1], BYTES, 0, 0);
	memset(from->addr, 2, BYTES);
	ends_with(pd, at[0], IBV_WC_REM_ACCESS_ERR);
	ends_with(pd, at[1], IBV_WC_SUCCESS);
	CHECK(count_of(buffer[0], 1) == BYTES && count_of(buffer[1], 2) == BYTES, "the wrong one");

	/* Shorter. */
	rereg(translation, NULL, buffer[1], BYTES - 1, 0, 0);
	ends_with(pd, at[1], IBV_WC_REM_ACCESS_ERR);
	rereg(translation, NULL, buffer[1], BYTES, 0, 0);

	/* Into another domain, which it then keeps; and back. */
	rereg(domain, other, NULL, 0, 0, 0);
	ends_with(pd, at[1], IBV_WC_REM_ACCESS_ERR);
	ends_with(other, at[1], IBV_WC_SUCCESS);
	CHECK(ibv_dealloc_pd(other) == EBUSY, "a domain that is in use was freed");
	rereg(domain, pd, NULL, 0, 0, 0);
	rereg(domain, pd, NULL, 0, 0, 0);
	ends_with(pd, at[1], IBV_WC_SUCCESS);

	/* Other rights. */
	rereg(access, NULL, NULL, 0, IBV_ACCESS_REMOTE_READ, 0);
	ends_with(pd, at[1], IBV_WC_REM_ACCESS_ERR);
	rereg(access, NULL, NULL, 0, ALL | IBV_ACCESS_ZERO_BASED, 0);
	ends_with(pd, at[1], IBV_WC_REM_ACCESS_ERR);
	ends_with(pd, 0, IBV_WC_SUCCESS);
	rereg(access, NULL, NULL, 0, ALL | IBV_ACCESS_ON_DEMAND, 0);
	ends_with(pd, at[1], IBV_WC_SUCCESS);

	/* All at once. */
	rereg(translation | domain | access, other, buffer[0], BYTES, ALL, 0);
	memset(from->addr, 3, BYTES);
	ends_with(other, at[0], IBV_WC_SUCCESS);
	CHECK(count_of(buffer[0], 3) == BYTES, "not written");

	/* What is refused, by whomever, leaves all as it was. */
	rereg(access, NULL, NULL, 0, IBV_ACCESS_REMOTE_WRITE, refused);
	rereg(translation | domain, pd, buffer[1], 1ul << 63, 0, refused);
	rereg(translation | domain | access, pd, buffer[1], BYTES, 1 << 30, refused);
	rereg(translation, NULL, NULL, BYTES, 0, IBV_REREG_MR_ERR_INPUT);
	rereg(1 << 3, NULL, NULL, 0, 0, IBV_REREG_MR_ERR_INPUT);
	memset(from->addr, 4, BYTES);
	ends_with(other, at[0], IBV_WC_SUCCESS);
	CHECK(count_of(buffer[0], 4) == BYTES, "not written");

	CHECK(!(errno = ibv_dereg_mr(mr)), "ibv_dereg_mr: %m");
	CHECK(!(errno = ibv_dereg_mr(from)), "ibv_dereg_mr: %m");
	CHECK(!(errno = ibv_dealloc_pd(other)), "ibv_dealloc_pd: %m");
}
