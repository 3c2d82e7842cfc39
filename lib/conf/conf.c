/*
 * Parsing of single values by Go's rules, because that is what etcd's flags and files accept, and
 * filling a daemon's conf struct from its field table. A default in a table is parsed by the same
 * code as a given value, so a table with a bad default is a bug and ends the process.
 */
#include "lib/conf/conf.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

int conf_parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};

    assert(text != NULL);
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(text, yes[i]) == 0) {
            *ret = true;
            return 0;
        }
        if (strcmp(text, no[i]) == 0) {
            *ret = false;
            return 0;
        }
    }
    return -EINVAL;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

/* Go strconv base 0: the prefix chooses the base, '_' may stand between digits or after a prefix. */
int conf_parse_u64(const char *text, uint64_t *ret)
{
    uint64_t v = 0;
    unsigned int base = 10;
    const char *p = text;
    bool digits = false, digit_before = false;

    assert(text != NULL);
    if (p[0] == '0' && p[1] != '\0') {
        switch (p[1]) {
        case 'x':
        case 'X':
            base = 16;
            p += 2;
            break;
        case 'b':
        case 'B':
            base = 2;
            p += 2;
            break;
        case 'o':
        case 'O':
            base = 8;
            p += 2;
            break;
        default: /* the old octal form, whose 0 is prefix and digit at once */
            base = 8;
            p += 1;
            break;
        }
        digit_before = true; /* an underscore is allowed straight after the prefix */
    }
    for (; *p != '\0'; p++) {
        unsigned int d;

        if (*p == '_') {
            if (!digit_before)
                return -EINVAL;
            digit_before = false;
            continue;
        }
        d = (unsigned int)digit_value(*p);
        if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
            return -EINVAL;
        digits = true;
        digit_before = true;
    }
    if (!digits || !digit_before) /* nothing, or an underscore at the end */
        return -EINVAL;
    *ret = v;
    return 0;
}

int conf_parse_i64(const char *text, int64_t *ret)
{
    bool negative = false;
    uint64_t v;

    assert(text != NULL);
    if (*text == '-' || *text == '+')
        negative = *text++ == '-';
    if (conf_parse_u64(text, &v) < 0 || v > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return -EINVAL;
    *ret = negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static const struct {
    const char *name;
    uint64_t ns;
} duration_units[] = {
    /* longer names first: "ms" would match as "m" */
    {"ns", 1},
    {"us", 1000},
    {"\xc2\xb5s", 1000}, /* U+00B5 micro sign */
    {"\xce\xbcs", 1000}, /* U+03BC Greek mu */
    {"ms", 1000000},
    {"s", 1000000000},
    {"m", UINT64_C(60) * 1000000000},
    {"h", UINT64_C(3600) * 1000000000},
};

/* A unit extends to the next digit or dot, as in Go: "1mx" names the unknown unit "mx". */
static uint64_t duration_take_unit(const char **pp)
{
    const char *p = *pp;
    size_t len = strcspn(p, "0123456789.");

    for (size_t i = 0; i < ARRAY_LEN(duration_units); i++) {
        if (strlen(duration_units[i].name) == len && memcmp(p, duration_units[i].name, len) == 0) {
            *pp = p + len;
            return duration_units[i].ns;
        }
    }
    return 0;
}

/* Go time.ParseDuration, without negative durations: no setting has a use for one. */
int conf_parse_duration(const char *text, uint64_t *ret_ns)
{
    const char *p = text;
    uint64_t total = 0;

    assert(text != NULL);
    if (*p == '+')
        p++;
    if (strcmp(p, "0") == 0) {
        *ret_ns = 0;
        return 0;
    }
    if (*p == '\0')
        return -EINVAL;
    while (*p != '\0') {
        uint64_t whole = 0, fraction = 0, unit;
        double scale = 1;
        bool digits = false, fraction_full = false;

        for (; *p >= '0' && *p <= '9'; p++) {
            if (__builtin_mul_overflow(whole, 10, &whole) ||
                __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
                return -EINVAL;
            digits = true;
        }
        if (*p == '.') {
            for (p++; *p >= '0' && *p <= '9'; p++) {
                digits = true;
                if (fraction_full || fraction > ((uint64_t)INT64_MAX - 9) / 10) {
                    fraction_full = true; /* further digits are below a nanosecond */
                    continue;
                }
                fraction = fraction * 10 + (uint64_t)(*p - '0');
                scale *= 10;
            }
        }
        if (!digits)
            return -EINVAL;
        unit = duration_take_unit(&p);
        if (unit == 0 || __builtin_mul_overflow(whole, unit, &whole))
            return -EINVAL;
        if (fraction > 0)
            fraction = (uint64_t)((double)fraction * ((double)unit / scale));
        if (__builtin_add_overflow(whole, fraction, &whole) ||
            __builtin_add_overflow(total, whole, &total) || total > (uint64_t)INT64_MAX)
            return -EINVAL;
    }
    *ret_ns = total;
    return 0;
}

static const char *type_wanted(enum conf_type type)
{
    switch (type) {
    case CONF_STRING:
        return "a text";
    case CONF_BOOL:
        return "true or false";
    case CONF_U64:
        return "a number of 0 or more";
    case CONF_I64:
        return "a number";
    case CONF_DURATION:
        return "a duration such as 500ms or 1h30m";
    }
    return "a value";
}

static bool in_range(const struct conf_field *f, uint64_t v)
{
    return v >= f->min && (f->max == 0 || v <= f->max);
}

static int set_field(const struct conf_field *f, void *conf, const char *text, char **ret_error)
{
    void *slot = (char *)conf + f->offset;
    uint64_t u = 0;
    int r = 0;

    switch (f->type) {
    case CONF_STRING:
        free(*(char **)slot);
        *(char **)slot = xstrdup(text);
        return 0;
    case CONF_BOOL:
        r = conf_parse_bool(text, slot);
        break;
    case CONF_I64:
        r = conf_parse_i64(text, slot);
        break;
    case CONF_U64:
    case CONF_DURATION:
        r = f->type == CONF_U64 ? conf_parse_u64(text, &u) : conf_parse_duration(text, &u);
        if (r == 0 && !in_range(f, u)) {
            if (f->max != 0)
                *ret_error = xasprintf("%s: \"%s\" is not within %" PRIu64 " to %" PRIu64 "%s",
                                       f->name, text, f->min, f->max,
                                       f->type == CONF_DURATION ? " nanoseconds" : "");
            else
                *ret_error = xasprintf("%s: \"%s\" is less than %" PRIu64 "%s", f->name, text,
                                       f->min, f->type == CONF_DURATION ? " nanoseconds" : "");
            return -EINVAL;
        }
        if (r == 0)
            *(uint64_t *)slot = u;
        break;
    }
    if (r < 0)
        *ret_error = xasprintf("%s: \"%s\" is not %s", f->name, text, type_wanted(f->type));
    return r;
}

static const struct conf_field *find_field(const struct conf_field *fields, const char *name,
                                           size_t len)
{
    for (const struct conf_field *f = fields; f->name != NULL; f++) {
        if (strlen(f->name) == len && memcmp(f->name, name, len) == 0)
            return f;
    }
    return NULL;
}

static int load_line(const struct conf_field *fields, void *conf, const char *line, size_t len,
                     char **ret_error)
{
    CLEANUP(freep) char *value = NULL;
    const struct conf_field *f;
    const char *eq;

    if (len == 0 || line[0] == '#')
        return 0;
    eq = memchr(line, '=', len);
    if (eq == NULL || eq == line || memchr(line, '\0', len) != NULL) {
        *ret_error = xasprintf("\"%.*s\" is not a line \"key=value\"", (int)MIN(len, 256), line);
        return -EINVAL;
    }
    f = find_field(fields, line, (size_t)(eq - line));
    if (f == NULL)
        return 0;
    value = xstrndup(eq + 1, len - (size_t)(eq + 1 - line));
    return set_field(f, conf, value, ret_error);
}

int conf_load(const struct conf_field *fields, void *conf, struct bytes text, char **ret_error)
{
    const char *p = (const char *)text.data;
    size_t left = text.len;
    char *error = NULL;

    assert(fields != NULL);
    assert(conf != NULL);
    assert(ret_error != NULL);
    for (const struct conf_field *f = fields; f->name != NULL; f++) {
        if (f->def == NULL && f->type != CONF_STRING)
            continue; /* zero, as the caller left it */
        if (set_field(f, conf, f->def != NULL ? f->def : "", &error) < 0)
            PANIC("default of a setting: %s", error);
    }
    while (left > 0) {
        const char *nl = memchr(p, '\n', left);
        size_t len = nl != NULL ? (size_t)(nl - p) : left;

        if (load_line(fields, conf, p, len, &error) < 0) {
            conf_fini(fields, conf);
            *ret_error = error;
            return -EINVAL;
        }
        left -= MIN(left, len + 1);
        p += len + 1;
    }
    return 0;
}

void conf_fini(const struct conf_field *fields, void *conf)
{
    for (const struct conf_field *f = fields; f->name != NULL; f++) {
        char **slot = (char **)(void *)((char *)conf + f->offset);

        if (f->type != CONF_STRING)
            continue;
        free(*slot);
        *slot = NULL;
    }
}
