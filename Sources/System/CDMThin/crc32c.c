// CRC-32C by the processor's instruction if it has one, otherwise by table.
//
// The x86 instruction has a latency of three cycles and a throughput of one, so three lanes run in
// parallel. Their registers are joined by advancing a register over a known number of zero bytes,
// which is linear and so a table look-up per byte of the register.
#include "CDMThin.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u  // 0x1EDC6F41 reflected
#define LANE 1360               // bytes; three lanes cover 4080 of a block's 4092 checked bytes

static uint32_t byte_table[256];
static uint32_t skip_one_lane[4][256];   // register after LANE zero bytes, by register byte
static uint32_t skip_two_lanes[4][256];  // register after 2 * LANE zero bytes
static int has_instruction;
static int is_ready;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t by_table(uint32_t crc, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    while (count--) crc = byte_table[(crc ^ *p++) & 0xff] ^ (crc >> 8);
    return crc;
}

static uint32_t advance(uint32_t crc, size_t zero_bytes) {
    while (zero_bytes--) crc = byte_table[crc & 0xff] ^ (crc >> 8);
    return crc;
}

// Runs when the first checksum is computed: most calls of dmthin need none, and on a virtual
// machine querying the processor takes longer than many of them.
static void build_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (int bit = 0; bit < 8; bit++) r = (r >> 1) ^ (r & 1 ? POLYNOMIAL : 0);
        byte_table[i] = r;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    has_instruction = __builtin_cpu_supports("sse4.2");
    if (!has_instruction) return;
    // Advancing is linear over xor: 32 single-bit registers give every table entry.
    uint32_t one[32], two[32];
    for (int bit = 0; bit < 32; bit++) {
        one[bit] = advance(1u << bit, LANE);
        two[bit] = advance(one[bit], LANE);
    }
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t a = 0, b = 0;
            for (int bit = 0; bit < 8; bit++)
                if (i >> bit & 1) {
                    a ^= one[byte * 8 + bit];
                    b ^= two[byte * 8 + bit];
                }
            skip_one_lane[byte][i] = a;
            skip_two_lanes[byte][i] = b;
        }
#endif
}

#if defined(__x86_64__)
static uint32_t skip(uint32_t t[4][256], uint32_t crc) {
    return t[0][crc & 0xff] ^ t[1][crc >> 8 & 0xff] ^ t[2][crc >> 16 & 0xff] ^ t[3][crc >> 24];
}

static uint64_t load64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p,
                                                                 size_t count) {
    while (count >= 3 * LANE) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t i = 0; i < LANE; i += 8) {
            a = __builtin_ia32_crc32di(a, load64(p + i));
            b = __builtin_ia32_crc32di(b, load64(p + LANE + i));
            c = __builtin_ia32_crc32di(c, load64(p + 2 * LANE + i));
        }
        crc = skip(skip_two_lanes, (uint32_t)a) ^ skip(skip_one_lane, (uint32_t)b) ^ (uint32_t)c;
        p += 3 * LANE;
        count -= 3 * LANE;
    }
    for (; count >= 8; p += 8, count -= 8)
        crc = (uint32_t)__builtin_ia32_crc32di(crc, load64(p));
    while (count--) crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t by_instruction(uint32_t crc, const uint8_t *p, size_t count) {
    for (; count >= 8; p += 8, count -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        crc = __crc32cd(crc, v);
    }
    while (count--) crc = __crc32cb(crc, *p++);
    return crc;
}
#endif

static void make_ready(void) {
    if (__atomic_load_n(&is_ready, __ATOMIC_ACQUIRE)) return;
    pthread_once(&once, build_tables);
    __atomic_store_n(&is_ready, 1, __ATOMIC_RELEASE);
}

uint32_t dmthin_crc32c_reference(uint32_t crc, const void *bytes, size_t count) {
    make_ready();
    return by_table(crc, bytes, count);
}

uint32_t dmthin_crc32c(uint32_t crc, const void *bytes, size_t count) {
#if defined(__x86_64__)
    make_ready();
    if (has_instruction) return by_instruction(crc, bytes, count);
    return by_table(crc, bytes, count);
#elif defined(__ARM_FEATURE_CRC32)
    return by_instruction(crc, bytes, count);
#else
    make_ready();
    return by_table(crc, bytes, count);
#endif
}
