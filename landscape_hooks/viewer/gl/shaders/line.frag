// Distance to the segment gives smooth edges and round ends; the line is cut where the replay has not come yet.
flat in vec2 f_a;
flat in vec2 f_b;
flat in float f_half;
in vec4 v_color;
in float v_along;
uniform float tail;
uniform float head;
uniform vec4 paint;             // alpha > 0 paints over the line's own colour
uniform float opacity;
uniform float dash;             // pixels a dash, 0 for a whole line
out vec4 color;

void main() {
    if (v_along > head || v_along < tail) discard;
    vec2 segment = f_b - f_a;
    vec2 from = gl_FragCoord.xy - f_a;
    float place = clamp(dot(from, segment) / max(dot(segment, segment), 1e-9), 0.0, 1.0);
    float cover = clamp(f_half + 0.5 - length(from - place * segment), 0.0, 1.0);
    cover *= min(1.0, 2.0 * f_half);
    if (dash > 0.0) cover *= step(0.45, fract((gl_FragCoord.x + gl_FragCoord.y) / dash));
    float alpha = v_color.a * opacity * cover;
    if (alpha < 0.004) discard;
    color = vec4(mix(v_color.rgb, paint.rgb, paint.a) * alpha, alpha);
}
