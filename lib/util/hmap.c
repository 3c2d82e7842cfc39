#include "lib/util/hmap.h"

#include <assert.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

enum { HMAP_INITIAL_SLOTS = 16 };

/* finaliser of splitmix64: consecutive ids spread over the table */
static size_t slot_of(const struct hmap *m, uint64_t key)
{
    key ^= key >> 30;
    key *= 0xbf58476d1ce4e5b9ULL;
    key ^= key >> 27;
    key *= 0x94d049bb133111ebULL;
    key ^= key >> 31;
    return (size_t)key & m->mask;
}

void hmap_fini(struct hmap *m)
{
    free(m->slots);
    *m = HMAP_INIT;
}

void *hmap_get(const struct hmap *m, uint64_t key)
{
    if (m->count == 0)
        return NULL;
    for (size_t i = slot_of(m, key); m->slots[i].value != NULL; i = (i + 1) & m->mask)
        if (m->slots[i].key == key)
            return m->slots[i].value;
    return NULL;
}

static void resize(struct hmap *m, size_t slots)
{
    struct hmap old = *m;

    m->slots = xcalloc(slots, sizeof(*m->slots));
    m->mask = slots - 1;
    m->count = 0;
    for (size_t i = 0; old.slots != NULL && i <= old.mask; i++)
        if (old.slots[i].value != NULL)
            hmap_put(m, old.slots[i].key, old.slots[i].value);
    free(old.slots);
}

void *hmap_put(struct hmap *m, uint64_t key, void *value)
{
    size_t i;

    assert(value != NULL);
    if (m->slots == NULL)
        resize(m, HMAP_INITIAL_SLOTS);
    else if ((m->count + 1) * 4 > (m->mask + 1) * 3)
        resize(m, (m->mask + 1) * 2);
    for (i = slot_of(m, key); m->slots[i].value != NULL; i = (i + 1) & m->mask) {
        if (m->slots[i].key == key) {
            void *old = m->slots[i].value;

            m->slots[i].value = value;
            return old;
        }
    }
    m->slots[i] = (struct hmap_slot){.key = key, .value = value};
    m->count++;
    return NULL;
}

void *hmap_remove(struct hmap *m, uint64_t key)
{
    size_t i, hole;
    void *value;

    if (m->count == 0)
        return NULL;
    for (i = slot_of(m, key); m->slots[i].value == NULL || m->slots[i].key != key;
         i = (i + 1) & m->mask)
        if (m->slots[i].value == NULL)
            return NULL;
    value = m->slots[i].value;
    hole = i;
    for (size_t j = (i + 1) & m->mask; m->slots[j].value != NULL; j = (j + 1) & m->mask) {
        size_t home = slot_of(m, m->slots[j].key);

        /* move back what probed past the hole */
        if (((j - home) & m->mask) >= ((j - hole) & m->mask)) {
            m->slots[hole] = m->slots[j];
            hole = j;
        }
    }
    m->slots[hole].value = NULL;
    m->count--;
    return value;
}

bool hmap_next(const struct hmap *m, size_t *pos, uint64_t *ret_key, void **ret_value)
{
    for (; m->slots != NULL && *pos <= m->mask; (*pos)++) {
        if (m->slots[*pos].value == NULL)
            continue;
        *ret_key = m->slots[*pos].key;
        *ret_value = m->slots[*pos].value;
        (*pos)++;
        return true;
    }
    return false;
}
