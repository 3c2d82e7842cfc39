/* Pages and elements, for the files of this folder. All of them check bounds. */
#ifndef CONCLAVE_BBOLT_INTERNAL_H
#define CONCLAVE_BBOLT_INTERNAL_H

#include <stdint.h>
#include "lib/util/bytes.h"

struct bbolt;
struct bbolt_item;

/* The page with its overflow. 0 or -EBADMSG. */
int bbolt_page_get(const struct bbolt *db, uint64_t id, struct bytes *ret);
uint16_t bbolt_page_flags(struct bytes page);
uint16_t bbolt_page_count(struct bytes page);
/* Element i < count of a page that has room for all its elements. 0 or -EBADMSG. */
int bbolt_leaf_item(struct bytes page, uint32_t i, struct bbolt_item *ret);
int bbolt_branch_child(struct bytes page, uint32_t i, struct bytes *ret_key, uint64_t *ret_page);

#endif
