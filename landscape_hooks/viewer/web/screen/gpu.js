// GPU: the few WebGL 2 objects the scene needs (viewer/gl/gpu.py).

/** @typedef {{ name: string, size: number, byte?: boolean }} Field an attribute: floats, or bytes of 0 … 1 */
/** @typedef {number | boolean | number[] | Float32Array} Uniform */

const HEADER = "#version 300 es\nprecision highp float;\nprecision highp int;\nprecision highp sampler2D;\n";

/** A program whose uniforms are set by their names; the compiler may have dropped some. */
export class Program {
  /** @param {WebGL2RenderingContext} gl @param {string} vertex @param {string} fragment */
  constructor(gl, vertex, fragment) {
    this.gl = gl;
    this.id = /** @type {WebGLProgram} */ (gl.createProgram());
    for (const [kind, text] of /** @type {const} */ ([[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]])) {
      const shader = /** @type {WebGLShader} */ (gl.createShader(kind));
      gl.shaderSource(shader, HEADER + text);
      gl.compileShader(shader);
      gl.attachShader(this.id, shader);
    }
    gl.linkProgram(this.id);
    /** @type {Map<string, { place: WebGLUniformLocation, type: number }> | null} */
    this._uniforms = null;
  }

  /** The uniforms by name. Asked for late: drivers compile several programs at once until one is asked about. */
  get uniforms() {
    if (this._uniforms) return this._uniforms;
    const { gl } = this;
    if (!gl.getProgramParameter(this.id, gl.LINK_STATUS) && !gl.isContextLost()) {
      const logs = (gl.getAttachedShaders(this.id) ?? []).map((shader) => gl.getShaderInfoLog(shader));
      throw new Error(`A shader does not compile here: ${[...logs, gl.getProgramInfoLog(this.id)].join(" ")}`);
    }
    this._uniforms = new Map();
    for (let k = 0; k < gl.getProgramParameter(this.id, gl.ACTIVE_UNIFORMS); k++) {
      const info = gl.getActiveUniform(this.id, k);
      const place = info && gl.getUniformLocation(this.id, info.name);
      if (info && place) this._uniforms.set(info.name, { place, type: info.type });
    }
    return this._uniforms;
  }

  /** Use the program, with these uniforms. @param {Record<string, Uniform>} values */
  use(values) {
    const { gl } = this;
    const { uniforms } = this;
    gl.useProgram(this.id);
    for (const [name, value] of Object.entries(values)) {
      const found = uniforms.get(name);
      if (!found) continue;
      const list = /** @type {number[]} */ (typeof value === "object" ? value : [Number(value)]);
      if (found.type === gl.FLOAT) gl.uniform1f(found.place, list[0]);
      else if (found.type === gl.FLOAT_VEC2) gl.uniform2fv(found.place, list);
      else if (found.type === gl.FLOAT_VEC3) gl.uniform3fv(found.place, list);
      else if (found.type === gl.FLOAT_VEC4) gl.uniform4fv(found.place, list);
      else if (found.type === gl.FLOAT_MAT4) gl.uniformMatrix4fv(found.place, false, list);
      else gl.uniform1i(found.place, list[0]);
    }
  }
}

/** Records of the same fields one after the other, as a shader takes them. */
export class Records {
  /** @param {Field[]} fields @param {number} capacity records that are expected */
  constructor(fields, capacity = 64) {
    this.fields = fields;
    this.stride = fields.reduce((sum, field) => sum + (field.byte ? 4 : 4 * field.size), 0);
    this.count = 0;
    this.bytes = new Uint8Array(Math.max(Math.ceil(capacity), 1) * this.stride);
    this._floats = new Float32Array(this.bytes.buffer);
  }

  _grow(/** @type {number} */ capacity) {
    const bytes = new Uint8Array(capacity * this.stride);
    bytes.set(this.bytes);
    this.bytes = bytes;
    this._floats = new Float32Array(bytes.buffer);
  }

  /** Add a record: the numbers of its fields in a row; bytes as 0 … 1. @param {number[]} values */
  add(values) {
    if ((this.count + 1) * this.stride > this.bytes.length) this._grow(2 * (this.count + 1));
    let place = this.count * this.stride;
    let k = 0;
    for (const field of this.fields) {
      for (let n = 0; n < field.size; n++, k++) {
        if (field.byte) this.bytes[place + n] = Math.round(values[k] * 255);
        else this._floats[place / 4 + n] = values[k];
      }
      place += field.byte ? 4 : 4 * field.size;
    }
    this.count += 1;
  }
}

/** Every record four times: a quad. Instances would do, but software draws them one by one, forty times as slowly. */
function fourfold(/** @type {Records} */ { bytes, count, stride }) {
  const out = new Uint8Array(4 * count * stride);
  for (let n = 0; n < count; n++) {
    const record = bytes.subarray(n * stride, (n + 1) * stride);
    for (let k = 0; k < 4; k++) out.set(record, (4 * n + k) * stride);
  }
  return out;
}

/** The two triangles of each of `count` quads. @param {number} count */
function quadTriangles(count) {
  const out = new Uint32Array(6 * count);
  for (let n = 0; n < count; n++) [0, 1, 2, 2, 1, 3].forEach((corner, k) => (out[6 * n + k] = 4 * n + corner));
  return out;
}

/** A vertex array of records with triangles, or of one quad a record. */
export class Vertices {
  /**
   * @param {WebGL2RenderingContext} gl @param {Program} program @param {Records | null} records
   * @param {Uint32Array[] | null} triangles lists of triangles; null for quads
   */
  constructor(gl, program, records, triangles) {
    this.gl = gl;
    this.count = records ? records.count : 3;
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    /** @type {(WebGLBuffer | null)[]} */
    this.buffers = [];
    if (records) this._fill(program, records, triangles ? null : fourfold(records));
    this.indices = (triangles ?? [quadTriangles(this.count)]).map((numbers) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, numbers, gl.STATIC_DRAW);
      this.buffers.push(buffer);
      return { buffer, count: numbers.length };
    });
    gl.bindVertexArray(null);
  }

  _fill(/** @type {Program} */ program, /** @type {Records} */ records, /** @type {Uint8Array | null} */ quads) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    this.buffers.push(buffer);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    const bytes = quads ?? records.bytes.subarray(0, records.count * records.stride);
    gl.bufferData(gl.ARRAY_BUFFER, bytes, gl.STATIC_DRAW);
    let offset = 0;
    for (const field of records.fields) {
      const place = gl.getAttribLocation(program.id, field.name);
      if (place >= 0) {
        gl.enableVertexAttribArray(place);
        const kind = field.byte ? gl.UNSIGNED_BYTE : gl.FLOAT;
        gl.vertexAttribPointer(place, field.size, kind, Boolean(field.byte), records.stride, offset);
      }
      offset += field.byte ? 4 : 4 * field.size;
    }
  }

  /** Draw all; `level` picks one of several lists of triangles. */
  draw(level = 0) {
    const { gl } = this;
    if (!this.count) return;
    gl.bindVertexArray(this.array);
    if (this.indices.length) {
      const { buffer, count } = this.indices[Math.min(level, this.indices.length - 1)];
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
      gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
    } else gl.drawArrays(gl.TRIANGLES, 0, this.count);
    gl.bindVertexArray(null);
  }

  delete() {
    this.gl.deleteVertexArray(this.array);
    for (const buffer of this.buffers) this.gl.deleteBuffer(buffer);
  }
}

/** A look-up texture of one row: (N, 3) colours as bytes, or (N) floats, which the shader reads one by one. */
export class Table {
  /** @param {WebGL2RenderingContext} gl @param {Uint8Array | Float32Array} data */
  constructor(gl, data) {
    this.gl = gl;
    this.id = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.id);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const colors = data instanceof Uint8Array;
    if (colors) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB8, data.length / 3, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, data);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, data.length, 1, 0, gl.RED, gl.FLOAT, data);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, key, colors ? gl.LINEAR : gl.NEAREST);
    }
    for (const key of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, key, gl.CLAMP_TO_EDGE);
  }

  /** @param {number} unit */
  bind(unit) {
    this.gl.activeTexture(this.gl.TEXTURE0 + unit);
    this.gl.bindTexture(this.gl.TEXTURE_2D, this.id);
  }

  delete() {
    this.gl.deleteTexture(this.id);
  }
}

/** A picture with a depth, of `samples` a pixel. */
export class Frame {
  /** @param {WebGL2RenderingContext} gl @param {number} width @param {number} height @param {number} samples */
  constructor(gl, width, height, samples) {
    this.gl = gl;
    this.size = [width, height];
    this.samples = Math.min(samples, gl.getParameter(gl.MAX_SAMPLES));
    this.id = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.id);
    const kinds = [[gl.RGBA8, gl.COLOR_ATTACHMENT0], [gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT]];
    this.parts = kinds.map(([kind, place]) => {
      const part = gl.createRenderbuffer();
      gl.bindRenderbuffer(gl.RENDERBUFFER, part);
      gl.renderbufferStorageMultisample(gl.RENDERBUFFER, this.samples, kind, width, height);
      gl.framebufferRenderbuffer(gl.FRAMEBUFFER, place, gl.RENDERBUFFER, part);
      return part;
    });
  }

  bind() {
    this.gl.bindFramebuffer(this.gl.FRAMEBUFFER, this.id);
    this.gl.viewport(0, 0, this.size[0], this.size[1]);
  }

  /** Copy the picture (with its depth, if the target has one) to another frame of its size, or to the whole canvas. */
  copyTo(/** @type {Frame | null} */ other) {
    const { gl } = this;
    const [width, height] = this.size;
    const [across, down] = other ? other.size : [gl.drawingBufferWidth, gl.drawingBufferHeight];
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.id);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, other ? other.id : null);
    const mask = gl.COLOR_BUFFER_BIT | (other ? gl.DEPTH_BUFFER_BIT : 0);
    const filter = across === width && down === height ? gl.NEAREST : gl.LINEAR;
    gl.blitFramebuffer(0, 0, width, height, 0, 0, across, down, mask, filter);
  }

  delete() {
    this.gl.deleteFramebuffer(this.id);
    for (const part of this.parts) this.gl.deleteRenderbuffer(part);
  }
}
