// Colour of the surface: colour map, tints, grey, wireframe or the file's colours, light, and iso-lines.
in vec3 v_position;
in vec3 v_normal;
in float v_share;
in float v_occlusion;
in vec2 v_cell;
in vec3 v_tint;
uniform int color_mode;       // 0 colour map, 1 hypsometric, 2 grey, 3 wire, 4 the file's colours
uniform int contour_mode;       // 1 draws iso-lines here
uniform int has_grid;
uniform float shading;          // 0 flat … 1 full hill-shade
uniform float line_scale;       // pixels of the framebuffer a pixel of the picture
uniform vec3 eye;
uniform vec3 light;             // towards the light
uniform vec3 paper;             // background, for the wireframe
uniform vec3 hatch;
uniform float table_size;
uniform float contour_ink;      // < 0 dark lines, > 0 light lines
uniform sampler2D colors;
uniform sampler2D level_of;     // share of the height -> number of the contour line, whole on a line
uniform sampler2D index_lines;  // number of the line -> 1 where it is a heavier one
uniform int level_count;
out vec4 color;

vec3 look_up(float share) {
    return texture(colors, vec2((clamp(share, 0.0, 1.0) * (table_size - 1.0) + 0.5) / table_size, 0.5)).rgb;
}

float level_at(float share) {    // by hand: not every card smooths a texture of floats
    float last = float(textureSize(level_of, 0).x - 1);
    float place = clamp(share, 0.0, 1.0) * last;
    float first = min(floor(place), last - 1.0);
    float one = texelFetch(level_of, ivec2(int(first), 0), 0).r;
    return mix(one, texelFetch(level_of, ivec2(int(first) + 1, 0), 0).r, place - first);
}

float line(float distance_px, float half_width) {
    return 1.0 - smoothstep(half_width - 0.5, half_width + 0.5, distance_px);
}

void main() {
    if (color_mode == 5) {    // nothing is known here: stripes, and nothing between them
        float stripe = fract((v_position.x + v_position.y) * 16.0);
        if (stripe > 0.42) discard;
        color = vec4(hatch, 1.0);
        return;
    }
    vec3 n = normalize(v_normal);
    vec3 to_eye = normalize(eye - v_position);
    bool below = dot(n, to_eye) < 0.0;
    if (below) n = -n;

    bool leveled = level_count > 0 && (contour_mode == 1 || color_mode == 1);
    float level = leveled ? level_at(v_share) : 0.0;

    vec3 base;
    if (color_mode == 1 && leveled) base = look_up((floor(level) + 0.5) / float(level_count + 1));
    else if (color_mode == 2) base = vec3(0.74);
    else if (color_mode == 3) base = mix(paper, look_up(v_share), 0.12);
    else if (color_mode == 4) base = v_tint;
    else base = look_up(v_share);

    float key = max(dot(n, light), 0.0);
    float sky = 0.5 + 0.5 * n.z;
    float shade = v_occlusion * (0.30 + 0.24 * sky) + 0.50 * key;
    vec3 halfway = normalize(light + to_eye);
    float glint = max(dot(n, halfway), 0.0);
    glint *= glint; glint *= glint; glint *= glint; glint *= glint;
    float gloss = glint * glint * 0.10;
    vec3 lit = base * mix(0.95, shade, shading) + vec3(gloss) * shading;
    float rim = 1.0 - max(dot(n, to_eye), 0.0);
    lit += base * (rim * rim * rim * 0.10 * shading);
    if (below) lit *= 0.62;

    if (color_mode == 3) {
        vec2 cell_width = max(fwidth(v_cell), vec2(1e-6));
        vec2 away = abs(fract(v_cell - 0.5) - 0.5) / cell_width;
        float wire = has_grid == 1 ? line(min(away.x, away.y), 0.55 * line_scale) : 0.0;
        // where the lines come closer than a few pixels they fade, or they would fill the picture
        wire *= clamp(1.6 - 3.0 * max(cell_width.x, cell_width.y), 0.15, 1.0);
        lit = mix(lit, look_up(v_share) * (0.65 + 0.45 * key), wire);
    }
    if (contour_mode == 1 && leveled) {
        float level_width = max(fwidth(level), 1e-6);
        float nearest = floor(level + 0.5);
        if (nearest > 0.5 && nearest < float(level_count) + 0.5) {
            float heavy = texelFetch(index_lines, ivec2(int(nearest) - 1, 0), 0).r;
            float distance_px = abs(level - nearest) / level_width;
            float ink = line(distance_px, (heavy > 0.5 ? 0.95 : 0.45) * line_scale) * (heavy > 0.5 ? 0.80 : 0.42);
            ink *= clamp(1.5 - 2.5 * level_width, 0.0, 1.0);
            lit = mix(lit, contour_ink < 0.0 ? lit * 0.22 : mix(lit, vec3(1.0), 0.85), ink);
        }
    }
    color = vec4(clamp(lit, 0.0, 1.0), 1.0);
}
