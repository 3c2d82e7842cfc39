/*
 * The configuration file. libyaml composes the document, with a place for every node; we walk it with
 * the table of settings in hand. Keys are etcd's, in any case of letters; blocks such as
 * client-transport-security become paths. Stricter than etcd where a typo would go unseen (unknown and
 * duplicate keys), more lenient where its JSON detour gets in the way (durations as text, lists as
 * lists, bare words for texts).
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>
#include "lib/conf/conf.h"
#include "lib/util/xmalloc.h"

enum {
    FILE_BYTES_MAX = 1 << 20, /* far above any real configuration; keeps a wrong path harmless */
    BLOCK_DEPTH_MAX = 4,      /* etcd's deepest: discovery-config.client.secure.cert */
};

/* Keys etcd has in its blocks that correspond to no flag and to nothing here. */
static const char *const meaningless_paths[] = {
    "discovery-config.client.max-request-bytes",
    "discovery-config.client.max-recv-bytes",
    "discovery-config.client.secure.server-name",
    "discovery-config.client.auth.token",
};

struct reader {
    const char *path;
    yaml_document_t *doc;
    struct setting_layer *layer;
    struct settings_error *error;
};

static int fail_at(struct reader *rd, yaml_mark_t mark, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int fail_at(struct reader *rd, yaml_mark_t mark, const char *fmt, ...)
{
    CLEANUP(freep) char *text = NULL;
    va_list args;

    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0)
        PANIC("out of memory");
    va_end(args);
    settings_error_set(rd->error, 1, "%s:%zu:%zu: %s", rd->path, mark.line + 1, mark.column + 1,
                       text);
    rd->error->located = true;
    return -EINVAL;
}

static const char *scalar_text(const yaml_node_t *n)
{
    return (const char *)n->data.scalar.value;
}

static bool is_plain(const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

/* No value at all: the default stays, as in etcd. */
static bool is_null(const yaml_node_t *n)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; is_plain(n) && i < ARRAY_LEN(nulls); i++) {
        if (strcmp(scalar_text(n), nulls[i]) == 0)
            return true;
    }
    return false;
}

/* YAML 1.1's words, which etcd's reader takes too. */
static const char *bool_word(const char *text)
{
    static const char *const yes[] = {"true", "yes", "on", "y"};
    static const char *const no[] = {"false", "no", "off", "n"};

    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0)
            return "true";
        if (strcasecmp(text, no[i]) == 0)
            return "false";
    }
    return NULL;
}

static const char *kind_of(const yaml_node_t *n)
{
    uint64_t u;

    if (n->type == YAML_SEQUENCE_NODE)
        return "a list";
    if (n->type == YAML_MAPPING_NODE)
        return "a block";
    if (is_plain(n) && conf_parse_u64(scalar_text(n), &u) == 0)
        return "the number";
    return "the text";
}

static int fail_type(struct reader *rd, const yaml_node_t *n, const char *key, const char *wanted)
{
    if (n->type != YAML_SCALAR_NODE)
        return fail_at(rd, n->start_mark, "%s: expected %s, found %s", key, wanted, kind_of(n));
    return fail_at(rd, n->start_mark, "%s: expected %s, found %s \"%s\"", key, wanted, kind_of(n),
                   scalar_text(n));
}

/* A list as etcd's comma text. */
static int join_list(struct reader *rd, const yaml_node_t *n, const char *key, char **ret_text)
{
    struct buf b = BUF_INIT;

    for (const yaml_node_item_t *it = n->data.sequence.items.start;
         it < n->data.sequence.items.top; it++) {
        const yaml_node_t *item = yaml_document_get_node(rd->doc, *it);

        if (item->type != YAML_SCALAR_NODE) {
            buf_fini(&b);
            return fail_type(rd, item, key, "a text in the list");
        }
        buf_appendf(&b, "%s%s", b.len > 0 ? "," : "", scalar_text(item));
    }
    buf_append_u8(&b, '\0');
    *ret_text = (char *)b.data;
    return 0;
}

static bool takes_list(const struct setting_def *d)
{
    return d->type == SETTING_LIST || d->type == SETTING_URLS || d->type == SETTING_ORIGINS;
}

static int value_text(struct reader *rd, const struct setting_def *d, const yaml_node_t *n,
                      const char *key, char **ret_text)
{
    const char *word;
    uint64_t u;
    int64_t i;

    if (n->type == YAML_SEQUENCE_NODE && takes_list(d))
        return join_list(rd, n, key, ret_text);
    switch (d->type) {
    case SETTING_BOOL:
        word = is_plain(n) ? bool_word(scalar_text(n)) : NULL;
        if (word == NULL)
            return fail_type(rd, n, key, "true or false");
        *ret_text = xstrdup(word);
        return 0;
    case SETTING_UINT:
    case SETTING_UINT32:
        if (!is_plain(n) || conf_parse_u64(scalar_text(n), &u) < 0)
            return fail_type(rd, n, key, "a number of 0 or more, without quotes");
        break;
    case SETTING_INT:
        if (!is_plain(n) || conf_parse_i64(scalar_text(n), &i) < 0)
            return fail_type(rd, n, key, "a number, without quotes");
        break;
    case SETTING_DURATION:
        if (n->type != YAML_SCALAR_NODE)
            return fail_type(rd, n, key, "a duration");
        if (is_plain(n) && conf_parse_u64(scalar_text(n), &u) == 0 && u <= INT64_MAX) {
            *ret_text = xasprintf("%sns", scalar_text(n)); /* etcd's form */
            return 0;
        }
        if (conf_parse_duration(scalar_text(n), &u) < 0)
            return fail_type(rd, n, key, "a duration (nanoseconds, or text such as 500ms or 1h30m)");
        break;
    default:
        if (n->type != YAML_SCALAR_NODE)
            return fail_type(rd, n, key, takes_list(d) ? "a text or a list" : "a text");
        break;
    }
    *ret_text = xstrdup(scalar_text(n));
    return 0;
}

static int read_value(struct reader *rd, size_t id, const char *key, const yaml_node_t *key_node,
                      const yaml_node_t *n)
{
    const struct setting_def *d = &setting_defs[id];
    struct setting_value *v = &rd->layer->values[id];
    CLEANUP(freep) char *text = NULL;
    CLEANUP(freep) char *why = NULL;

    if (v->source == SOURCE_FILE)
        return fail_at(rd, key_node->start_mark, "%s: given twice, first in line %u", key, v->line);
    v->source = SOURCE_FILE;
    v->line = (unsigned int)key_node->start_mark.line + 1;
    v->column = (unsigned int)key_node->start_mark.column + 1;
    if (is_null(n))
        return 0;
    if (value_text(rd, d, n, key, &text) < 0)
        return -EINVAL;
    if (*text == '\0' && d->type != SETTING_STRING) /* an empty text is no list, enum, ... */
        return 0;
    if (setting_put(rd->layer, id, text, SOURCE_FILE, &why) < 0) {
        if (strcmp(d->name, "initial-cluster-state") == 0)
            return fail_at(rd, n->start_mark, "%s: unexpected clusterState \"%s\"", key, text);
        return fail_at(rd, n->start_mark, "%s: invalid value \"%s\": %s", key,
                       d->secret ? "***" : text, why);
    }
    return 0;
}

static bool is_block(const char *path)
{
    size_t len = strlen(path);

    for (size_t i = 0; i < setting_count; i++) {
        const char *yaml = setting_defs[i].yaml;

        if (yaml != NULL && strncasecmp(yaml, path, len) == 0 && yaml[len] == '.')
            return true;
    }
    return strcasecmp(path, "discovery-config.client.auth") == 0;
}

static bool is_meaningless(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(meaningless_paths); i++) {
        if (strcasecmp(meaningless_paths[i], path) == 0)
            return true;
    }
    return false;
}

static int read_block(struct reader *rd, const yaml_node_t *block, const char *prefix, int depth)
{
    for (const yaml_node_pair_t *p = block->data.mapping.pairs.start;
         p < block->data.mapping.pairs.top; p++) {
        const yaml_node_t *key_node = yaml_document_get_node(rd->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(rd->doc, p->value);
        CLEANUP(freep) char *path = NULL;
        const char *key;
        int id, r = 0;

        if (key_node->type != YAML_SCALAR_NODE)
            return fail_at(rd, key_node->start_mark, "expected the name of a setting, found %s",
                           kind_of(key_node));
        key = scalar_text(key_node);
        if (strlen(key) != key_node->data.scalar.length || strlen(key) > 256)
            return fail_at(rd, key_node->start_mark, "unknown key \"%.64s...\"", key);
        path = *prefix != '\0' ? xasprintf("%s.%s", prefix, key) : xstrdup(key);
        id = strchr(key, '.') == NULL ? settings_find_yaml(path) : -1;
        if (id < 0 && *prefix == '\0' && strncmp(key, "test.", 5) == 0)
            id = settings_find_yaml(key);
        if (id >= 0) {
            r = read_value(rd, (size_t)id, path, key_node, value);
        } else if (is_block(path) && depth < BLOCK_DEPTH_MAX) {
            if (value->type == YAML_MAPPING_NODE)
                r = read_block(rd, value, path, depth + 1);
            else if (!is_null(value))
                r = fail_type(rd, value, path, "a block of settings");
        } else if (!is_meaningless(path)) {
            r = fail_at(rd, key_node->start_mark, "unknown key \"%s\"", path);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Two blocks of one name would pass unseen where no key repeats. */
static int check_repeated_blocks(struct reader *rd, const yaml_node_t *root)
{
    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start;
         p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *a = yaml_document_get_node(rd->doc, p->key);

        for (const yaml_node_pair_t *q = root->data.mapping.pairs.start; q < p; q++) {
            const yaml_node_t *b = yaml_document_get_node(rd->doc, q->key);

            if (a->type == YAML_SCALAR_NODE && b->type == YAML_SCALAR_NODE &&
                strcasecmp(scalar_text(a), scalar_text(b)) == 0)
                return fail_at(rd, a->start_mark, "%s: given twice, first in line %zu",
                               scalar_text(a), b->start_mark.line + 1);
        }
    }
    return 0;
}

static int read_document(struct reader *rd)
{
    const yaml_node_t *root = yaml_document_get_root_node(rd->doc);

    if (root == NULL || is_null(root))
        return 0; /* an empty file: all defaults */
    if (root->type != YAML_MAPPING_NODE)
        return fail_at(rd, root->start_mark, "expected lines \"key: value\", found %s",
                       kind_of(root));
    if (root->data.mapping.pairs.top - root->data.mapping.pairs.start > 1000)
        return fail_at(rd, root->start_mark, "too many keys");
    if (check_repeated_blocks(rd, root) < 0)
        return -EINVAL;
    return read_block(rd, root, "", 1);
}

static int parser_error(struct reader *rd, const yaml_parser_t *parser)
{
    yaml_mark_t mark = parser->problem_mark;

    if (parser->error == YAML_READER_ERROR)
        mark = parser->mark;
    return fail_at(rd, mark, "%s%s%s", parser->problem != NULL ? parser->problem : "not YAML",
                   parser->context != NULL ? " " : "",
                   parser->context != NULL ? parser->context : "");
}

int settings_read_yaml(struct setting_layer *layer, const char *path, const void *data, size_t len,
                       struct settings_error *ret_error)
{
    yaml_parser_t parser;
    yaml_document_t doc, second;
    struct reader rd = {.path = path, .doc = &doc, .layer = layer, .error = ret_error};
    int r;

    if (!yaml_parser_initialize(&parser))
        PANIC("out of memory");
    yaml_parser_set_input_string(&parser, data, len);
    if (!yaml_parser_load(&parser, &doc)) {
        r = parser_error(&rd, &parser);
        yaml_parser_delete(&parser);
        return r;
    }
    r = read_document(&rd);
    if (r == 0 && yaml_document_get_root_node(&doc) != NULL) {
        if (!yaml_parser_load(&parser, &second)) {
            r = parser_error(&rd, &parser);
        } else {
            if (yaml_document_get_root_node(&second) != NULL)
                r = fail_at(&rd, second.start_mark, "more than one document");
            yaml_document_delete(&second);
        }
    }
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    return r;
}

static int file_error(struct settings_error *ret_error, const char *what, const char *path, int err)
{
    CLEANUP(freep) char *text = xstrdup(strerror(err));

    if (text[0] >= 'A' && text[0] <= 'Z')
        text[0] = (char)(text[0] - 'A' + 'a');
    return settings_error_set(ret_error, 1, "%s %s: %s", what, path, text);
}

int settings_read_file(struct setting_layer *layer, const char *path,
                       struct settings_error *ret_error)
{
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    CLEANUP(buf_fini) struct buf content = BUF_INIT;
    struct stat st;

    if (fd < 0)
        return file_error(ret_error, "open", path, errno);
    if (fstat(fd, &st) < 0)
        return file_error(ret_error, "stat", path, errno);
    if (S_ISDIR(st.st_mode))
        return file_error(ret_error, "read", path, EISDIR);
    for (;;) {
        ssize_t n = read(fd, buf_reserve(&content, 65536), 65536);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_error(ret_error, "read", path, errno);
        if (n == 0)
            break;
        content.len += (size_t)n;
        if (content.len > FILE_BYTES_MAX)
            return settings_error_set(ret_error, 1, "%s is longer than %d bytes", path,
                                      FILE_BYTES_MAX);
    }
    return settings_read_yaml(layer, path, content.data != NULL ? (const void *)content.data : "",
                              content.len, ret_error);
}
