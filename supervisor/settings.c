/*
 * Values by type, layers by source, and how the layers become one. Nothing here knows where text
 * came from beyond its rank; the readers of flags, variables and files do.
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "lib/conf/conf.h"
#include "lib/log/log.h"
#include "lib/util/xmalloc.h"

/* longest text of one value; a bigger one is a mistake, not a setting */
enum { VALUE_BYTES_MAX = 64 * 1024 };

int settings_find(const char *name)
{
    for (size_t i = 0; i < setting_count; i++) {
        if (strcmp(setting_defs[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

int settings_find_yaml(const char *path)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];

        if (!d->no_yaml && (strcasecmp(d->name, path) == 0 ||
                            (d->yaml != NULL && strcasecmp(d->yaml, path) == 0)))
            return (int)i;
    }
    return -1;
}

static size_t must_find(const char *name)
{
    int id = settings_find(name);

    if (id < 0)
        PANIC("no setting is called %s", name);
    return (size_t)id;
}

char *setting_variable(const char *prefix, const char *name)
{
    char *v = xasprintf("%s%s", prefix, name);

    for (char *p = v + strlen(prefix); *p != '\0'; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    return v;
}

void setting_layer_init(struct setting_layer *layer)
{
    layer->values = xcalloc(setting_count, sizeof(*layer->values));
}

void setting_layer_fini(struct setting_layer *layer)
{
    for (size_t i = 0; layer->values != NULL && i < setting_count; i++)
        free(layer->values[i].text);
    free(layer->values);
    layer->values = NULL;
}

void settings_fini(struct settings *s)
{
    setting_layer_fini(&(struct setting_layer){s->values});
    for (size_t i = 0; i < s->notice_count; i++)
        free(s->notices[i].text);
    free(s->notices);
    free(s->file);
    *s = (struct settings){0};
}

void settings_error_fini(struct settings_error *error)
{
    free(error->text);
    *error = (struct settings_error){0};
}

static char *format(const char *fmt, va_list args) __attribute__((format(printf, 1, 0)));
static char *format(const char *fmt, va_list args)
{
    char *text;

    if (vasprintf(&text, fmt, args) < 0)
        PANIC("out of memory");
    return text;
}

int settings_error_set(struct settings_error *error, int exit_status, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    *error = (struct settings_error){.text = format(fmt, args), .exit_status = exit_status};
    va_end(args);
    return -EINVAL;
}

int settings_error_at(const struct settings *s, const char *name, struct settings_error *error,
                      const char *fmt, ...)
{
    const struct setting_value *v = &s->values[must_find(name)];
    CLEANUP(freep) char *text = NULL;
    va_list args;

    va_start(args, fmt);
    text = format(fmt, args);
    va_end(args);
    if (v->source != SOURCE_FILE)
        return settings_error_set(error, 1, "%s", text);
    settings_error_set(error, 1, "%s:%u:%u: %s: %s", s->file, v->line, v->column, name, text);
    error->located = true;
    return -EINVAL;
}

void settings_notice(struct settings *s, bool warning, const char *fmt, ...)
{
    va_list args;

    s->notices = xreallocarray(s->notices, s->notice_count + 1, sizeof(*s->notices));
    va_start(args, fmt);
    s->notices[s->notice_count++] =
        (struct settings_notice){.warning = warning, .text = format(fmt, args)};
    va_end(args);
}

/* ---- values by type ---- */

static int say(char **ret_why, const char *text)
{
    *ret_why = xstrdup(text);
    return -EINVAL;
}

static bool in_comma_list(const char *list, const char *item)
{
    size_t len = strlen(item);

    for (const char *p = list;; p += strcspn(p, ",") + 1) {
        size_t n = strcspn(p, ",");

        if (n == len && memcmp(p, item, n) == 0)
            return true;
        if (p[n] == '\0')
            return false;
    }
}

/* Go tells a number that is too big from a text that is none. */
static int say_number(char **ret_why, const char *text)
{
    const char *digits = text + (*text == '-' || *text == '+');

    if (*digits != '\0' && strspn(digits, "0123456789") == strlen(digits) && *text != '-')
        return say(ret_why, "value out of range");
    return say(ret_why, "parse error");
}

static int check_origins(const char *text, char **ret_why)
{
    CLEANUP(freep) char *copy = xstrdup(text);
    char *rest = copy, *item;

    while ((item = strsep(&rest, ",")) != NULL) {
        CLEANUP(url_fini) struct url u = {0};

        if (*item == '\0' || strcmp(item, "*") == 0)
            continue;
        if (url_parse(bytes_str(item), &u, ret_why) < 0)
            return -EINVAL;
    }
    return 0;
}

static const char *const level_processes[] = {"supervisor", "raftd", "stored", "gatewayd"};

/* The level that applies to `process` in "info,raftd=debug"; NULL process: only check. */
static int find_level(const char *text, const char *process, char **ret_level, char **ret_why)
{
    CLEANUP(freep) char *copy = xstrdup(text);
    CLEANUP(freep) char *common = NULL, *own = NULL;
    char *rest = copy, *item;

    while ((item = strsep(&rest, ",")) != NULL) {
        char *eq = strchr(item, '=');
        char *level = eq != NULL ? eq + 1 : item;
        enum log_level ignored;
        bool known = eq == NULL;

        if (eq != NULL)
            *eq = '\0';
        for (size_t i = 0; eq != NULL && i < ARRAY_LEN(level_processes); i++)
            known = known || strcmp(item, level_processes[i]) == 0;
        if (!known) {
            *ret_why = xasprintf("no daemon is called \"%s\" (raftd, stored, gatewayd, supervisor)",
                                 item);
            return -EINVAL;
        }
        if (!log_level_parse(level, &ignored)) {
            *ret_why = xasprintf("unrecognized level: \"%s\"", level);
            return -EINVAL;
        }
        if (eq == NULL) {
            free(common);
            common = xstrdup(level);
        } else if (process != NULL && strcmp(item, process) == 0) {
            free(own);
            own = xstrdup(level);
        }
    }
    if (ret_level != NULL)
        *ret_level = own != NULL ? TAKE(own) : common != NULL ? TAKE(common) : xstrdup("info");
    return 0;
}

static int check_gates(const char *text, char **ret_why)
{
    static const char known[] =
        "AllAlpha,AllBeta,StopGRPCServiceOnDefrag,InitialCorruptCheck,CompactHashCheck,"
        "TxnModeWriteWithSharedBuffer,LeaseCheckpoint,LeaseCheckpointPersist,SetMemberLocalAddr,"
        "FastLeaseKeepAlive,PriorityRequest";
    CLEANUP(freep) char *copy = xstrdup(text);
    char *rest = copy, *item;

    while ((item = strsep(&rest, ",")) != NULL) {
        char *eq = strchr(item, '=');
        bool value;

        if (*item == '\0')
            continue;
        if (eq == NULL) {
            *ret_why = xasprintf("missing bool value for %s", item);
            return -EINVAL;
        }
        *eq = '\0';
        if (!in_comma_list(known, item)) {
            *ret_why = xasprintf("unrecognized feature gate: %s", item);
            return -EINVAL;
        }
        if (conf_parse_bool(eq + 1, &value) < 0) {
            *ret_why = xasprintf("invalid value of %s=%s", item, eq + 1);
            return -EINVAL;
        }
    }
    return 0;
}

/* Normal form of `text` as a value of `d`; free(). */
static int normalise(const struct setting_def *d, const char *text, char **ret_normal,
                     char **ret_why)
{
    CLEANUP(url_list_fini) struct url_list urls = {0};
    uint64_t u;
    int64_t i;
    bool b;

    if (strlen(text) > VALUE_BYTES_MAX)
        return say(ret_why, "value is too long");
    if (strpbrk(text, "\r\n") != NULL)
        return say(ret_why, "value must be one line");
    switch (d->type) {
    case SETTING_BOOL:
        if (conf_parse_bool(text, &b) < 0)
            return say(ret_why, "parse error");
        *ret_normal = xstrdup(b ? "true" : "false");
        return 0;
    case SETTING_UINT:
    case SETTING_UINT32:
        if (conf_parse_u64(text, &u) < 0)
            return say_number(ret_why, text);
        if (d->type == SETTING_UINT32 && u > UINT32_MAX)
            return say(ret_why, "value out of range");
        *ret_normal = xasprintf("%" PRIu64, u);
        return 0;
    case SETTING_INT:
        if (conf_parse_i64(text, &i) < 0)
            return say_number(ret_why, text);
        *ret_normal = xasprintf("%" PRId64, i);
        return 0;
    case SETTING_DURATION:
        if (conf_parse_duration(text, &u) < 0)
            return say(ret_why, "parse error");
        *ret_normal = xasprintf("%" PRIu64 "ns", u);
        return 0;
    case SETTING_URLS:
        if (*text == '\0') { /* as if it were not given */
            *ret_normal = xstrdup(d->def != NULL ? d->def : "");
            return 0;
        }
        if (url_list_parse(bytes_str(text), &urls, ret_why) < 0)
            return -EINVAL;
        *ret_normal = url_list_join(&urls);
        return 0;
    case SETTING_ENUM:
        if (!in_comma_list(d->values, text))
            return say(ret_why, "invalid value");
        break;
    case SETTING_ORIGINS:
        if (check_origins(text, ret_why) < 0)
            return -EINVAL;
        break;
    case SETTING_GATES:
        if (check_gates(text, ret_why) < 0)
            return -EINVAL;
        break;
    case SETTING_STRING:
    case SETTING_LIST:
    case SETTING_LEVELS:
    case SETTING_ANY:
        break;
    }
    *ret_normal = xstrdup(text);
    return 0;
}

int setting_put(struct setting_layer *layer, size_t id, const char *text, enum setting_source source,
                char **ret_why)
{
    char *normal = NULL;

    assert(id < setting_count);
    if (normalise(&setting_defs[id], text, &normal, ret_why) < 0)
        return -EINVAL;
    free(layer->values[id].text);
    layer->values[id].text = normal;
    layer->values[id].source = source;
    return 0;
}

/* ---- effective values ---- */

static const char *default_of(size_t id)
{
    return setting_defs[id].def != NULL ? setting_defs[id].def : "";
}

const char *settings_text(const struct settings *s, const char *name)
{
    size_t id = must_find(name);

    return s->values[id].text != NULL ? s->values[id].text : default_of(id);
}

struct setting_urls settings_urls(const struct settings *s, const char *name)
{
    CLEANUP(url_list_fini) struct url_list texts = {0};
    struct setting_urls urls = {0};

    url_list_split(bytes_str(settings_text(s, name)), &texts);
    urls.items = xcalloc(texts.count + 1, sizeof(*urls.items));
    for (size_t i = 0; i < texts.count; i++) {
        CLEANUP(freep) char *why = NULL;

        if (url_parse(bytes_str(texts.items[i]), &urls.items[urls.count++], &why) < 0)
            PANIC("%s: %s", name, why);
    }
    return urls;
}

void setting_urls_fini(struct setting_urls *urls)
{
    for (size_t i = 0; i < urls->count; i++)
        url_fini(&urls->items[i]);
    free(urls->items);
    *urls = (struct setting_urls){0};
}

bool settings_is_given(const struct settings *s, const char *name)
{
    return s->values[must_find(name)].source != SOURCE_DEFAULT;
}

bool settings_bool(const struct settings *s, const char *name)
{
    bool b = false;

    (void)conf_parse_bool(settings_text(s, name), &b);
    return b;
}

uint64_t settings_u64(const struct settings *s, const char *name)
{
    uint64_t v = 0;

    (void)conf_parse_u64(settings_text(s, name), &v);
    return v;
}

uint64_t settings_duration_ms(const struct settings *s, const char *name)
{
    uint64_t ns = 0;

    (void)conf_parse_duration(settings_text(s, name), &ns);
    return ns / 1000000;
}

int settings_check_levels(const char *text, char **ret_why)
{
    return find_level(text, NULL, NULL, ret_why);
}

char *settings_log_level(const struct settings *s, const char *process)
{
    CLEANUP(freep) char *why = NULL;
    char *level = NULL;

    if (settings_bool(s, "debug") && !settings_is_given(s, "log-level"))
        return xstrdup("debug");
    if (find_level(settings_text(s, "log-level"), process, &level, &why) < 0)
        return xstrdup("info");
    return level;
}

const char *settings_log_format(const struct settings *s)
{
    const char *log_format = settings_text(s, "log-format");

    if (*log_format != '\0')
        return strcmp(log_format, "json") == 0 ? "json" : "text";
    return strcmp(settings_text(s, "logger"), "zap") == 0 ? "json" : "text";
}

void settings_write(const struct settings *s, unsigned int daemon, struct buf *out)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];

        if ((d->daemons & daemon) == 0 || strncmp(d->name, "log-", 4) == 0)
            continue; /* log lines differ per daemon; the caller writes those */
        buf_appendf(out, "%s=%s\n", d->name, settings_text(s, d->name));
    }
}

void settings_reload(struct settings *s, const struct settings *newer, char **ret_ignored)
{
    struct buf ignored = BUF_INIT;

    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];
        const char *value = settings_text(newer, d->name);

        if (strcmp(settings_text(s, d->name), value) == 0 || d->alias_of != NULL)
            continue;
        if (!d->reloadable) {
            buf_appendf(&ignored, "%s%s", ignored.len > 0 ? ", " : "", d->name);
            continue;
        }
        free(s->values[i].text);
        s->values[i].text = xstrdup(value);
        s->values[i].source = newer->values[i].source;
    }
    if (ignored.len > 0)
        buf_append_u8(&ignored, '\0');
    *ret_ignored = (char *)ignored.data;
}
