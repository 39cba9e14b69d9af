/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * CRC-32C: the Castagnoli polynomial, reflected (RFC 3720 section 12.1; 0x82F63B78).
 *
 * The SSE4.2 instruction takes 8 bytes a cycle but answers after three, so three neighbouring
 * lanes are run at once and joined: the CRC of A||B is the CRC of A moved over len(B) zero bytes,
 * XOR the CRC of B. Moving is linear over GF(2), so a table for each byte of the CRC does it.
 * Elsewhere: slicing by 8.
 */
#include "kernels.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <string.h>
#endif

#define POLYNOMIAL 0x82F63B78u

static uint32_t slices[8][256];

static void slices_init(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (value & 1 ? POLYNOMIAL : 0);
        slices[0][byte] = value;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t value = slices[slice - 1][byte];
            slices[slice][byte] = (value >> 8) ^ slices[0][value & 0xff];
        }
}

static uint32_t little_endian(const uint8_t *data)
{
    return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

uint32_t crc32c_portable(uint32_t value, const uint8_t *data, size_t length)
{
    value = ~value;
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low = value ^ little_endian(data);
        uint32_t high = little_endian(data + 4);
        value = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^ slices[5][low >> 16 & 0xff] ^
                slices[4][low >> 24] ^ slices[3][high & 0xff] ^ slices[2][high >> 8 & 0xff] ^
                slices[1][high >> 16 & 0xff] ^ slices[0][high >> 24];
    }
    for (; length > 0; data++, length--)
        value = (value >> 8) ^ slices[0][(value ^ *data) & 0xff];
    return ~value;
}

#if defined(__x86_64__)

/* Bytes a lane: long ones make joining free, short ones serve 4 KiB structures. */
enum { LONG = 4096, SHORT = 256 };

static uint32_t move_long[4][256];
static uint32_t move_short[4][256];
static bool has_instruction;

static void move_init(uint32_t move[4][256], size_t zeros)
{
    uint32_t basis[32];
    for (int bit = 0; bit < 32; bit++) {
        uint32_t value = 1u << bit;
        for (size_t i = 0; i < zeros; i++)
            value = (value >> 8) ^ slices[0][value & 0xff];
        basis[bit] = value;
    }
    for (int place = 0; place < 4; place++)
        for (int byte = 0; byte < 256; byte++) {
            move[place][byte] = 0;
            for (int bit = 0; bit < 8; bit++)
                if (byte >> bit & 1)
                    move[place][byte] ^= basis[8 * place + bit];
        }
}

static inline uint32_t moved(uint32_t move[4][256], uint64_t value)
{
    return move[0][value & 0xff] ^ move[1][value >> 8 & 0xff] ^ move[2][value >> 16 & 0xff] ^
           move[3][value >> 24 & 0xff];
}

static inline uint64_t word(const uint8_t *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

__attribute__((target("sse4.2"))) static inline uint64_t three_lanes(uint64_t value,
                                                                     const uint8_t *data,
                                                                     size_t lane,
                                                                     uint32_t move[4][256])
{
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < lane; i += 8) {
        value = _mm_crc32_u64(value, word(data + i));
        second = _mm_crc32_u64(second, word(data + lane + i));
        third = _mm_crc32_u64(third, word(data + 2 * lane + i));
    }
    return moved(move, moved(move, value) ^ second) ^ third;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_instruction(uint32_t start,
                                                                     const uint8_t *data,
                                                                     size_t length)
{
    uint64_t value = (uint32_t)~start;
    for (; length >= 3 * LONG; data += 3 * LONG, length -= 3 * LONG)
        value = three_lanes(value, data, LONG, move_long);
    for (; length >= 3 * SHORT; data += 3 * SHORT, length -= 3 * SHORT)
        value = three_lanes(value, data, SHORT, move_short);
    for (; length >= 8; data += 8, length -= 8)
        value = _mm_crc32_u64(value, word(data));
    for (; length > 0; data++, length--)
        value = _mm_crc32_u8((uint32_t)value, *data);
    return ~(uint32_t)value;
}

void crc32c_init(void)
{
    slices_init();
    move_init(move_long, LONG);
    move_init(move_short, SHORT);
    __builtin_cpu_init();
    has_instruction = __builtin_cpu_supports("sse4.2");
}

uint32_t crc32c(uint32_t value, const uint8_t *data, size_t length)
{
    return has_instruction ? crc32c_instruction(value, data, length)
                           : crc32c_portable(value, data, length);
}

#else

void crc32c_init(void)
{
    slices_init();
}

uint32_t crc32c(uint32_t value, const uint8_t *data, size_t length)
{
    return crc32c_portable(value, data, length);
}

#endif
